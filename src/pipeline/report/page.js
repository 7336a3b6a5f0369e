// Shows report.json (docs/formats/report.md), which stands in the element #report. Every number on the page carries its place
// there as a JSON pointer in data-figure, and its value in data-value: tools/check_report.py holds them against the file.
// Texts of the report are set as text, never as markup.
"use strict";
(() => {
const report = JSON.parse(document.getElementById("report").textContent);
const tip = d3.select("#tip");
const drawings = [];  // functions that draw a chart anew: on another width, on another theme

// Of a checkpoint that was only evaluated.
const madeByOthers = report.made_by === "evaluate";
const kUnknown = "Not known: nibblecast did not make this checkpoint.";

// ---- numbers

const count = d3.format(",");
const short = d3.format(".4~g");
const isNumber = value => typeof value === "number" && isFinite(value);
const plain = value => !isNumber(value) ? "–" : Math.abs(value) >= 1e5 || (value !== 0 && Math.abs(value) < 1e-4)
    ? d3.format(".3~e")(value).replace("−", "-") : short(value).replace("−", "-");
const percent = value => {
  if (!isNumber(value)) return "–";
  // 100 % is said of all alone.
  const text = d3.format(".2~f")(100 * value);
  return (value < 1 && text === "100" ? "> 99.99" : value > 0 && text === "0" ? "< 0.01" : text) + " %";
};
const unitOf = largest => [[1e12, "TB"], [1e9, "GB"], [1e6, "MB"], [1e3, "kB"]].find(unit => largest >= unit[0]) || [1, "bytes"];
const bytes = value => {
  if (!isNumber(value)) return "–";
  const [size, name] = unitOf(value);
  return `${size === 1 ? value : d3.format(value / size < 100 ? ".2f" : ".1f")(value / size)} ${name}`;
};
const parameters = value => {
  const [size, name] = [[1e12, "trillion"], [1e9, "billion"], [1e6, "million"]].find(unit => value >= unit[0]) || [1, ""];
  return size === 1 ? count(value) : `${d3.format(".3~r")(value / size)} ${name}`;
};
const duration = seconds => !isNumber(seconds) ? "–" : seconds < 60 ? `${d3.format(".3~g")(seconds)} s`
    : seconds < 3600 ? `${Math.floor(seconds / 60)} min ${Math.round(seconds % 60)} s`
    : `${Math.floor(seconds / 3600)} h ${Math.round(seconds % 3600 / 60)} min`;

// ---- places in the report

const pointer = (...keys) => keys.map(key => "/" + String(key).replace(/~/g, "~0").replace(/\//g, "~1")).join("");
const at = place => place.split("/").slice(1).reduce(
    (value, key) => value === null ? null : value[key.replace(/~1/g, "/").replace(/~0/g, "~")] ?? null, report);

// A number in words, with its place.
function figure(parent, place, format) {
  const value = at(place);
  return parent.append("span").attr("class", "figure").attr("data-figure", place).attr("data-value", JSON.stringify(value))
      .attr("title", isNumber(value) ? String(value) : null).text(format(value));
}

// A mark of a chart: its place, and a text that pointer and keyboard show.
function marked(selection, place, text) {
  return selection.classed("mark", true).attr("data-figure", place).attr("data-value", d => JSON.stringify(at(place(d))))
      .attr("tabindex", -1).attr("aria-label", text)
      .on("mousemove", d => show(text(d), d3.event.clientX, d3.event.clientY)).on("mouseleave blur", hide)
      .on("focus", function(d) { const box = this.getBoundingClientRect(); show(text(d), box.right, box.bottom); });
}
function show(text, x, y) {
  tip.attr("hidden", null).text(text);
  const box = tip.node().getBoundingClientRect();
  tip.style("left", `${Math.max(4, Math.min(x + 14, innerWidth - box.width - 4))}px`)
      .style("top", `${y + 18 + box.height > innerHeight ? Math.max(4, y - box.height - 12) : y + 18}px`);
}
function hide() { tip.attr("hidden", true); }

// ---- pieces

const section = name => d3.select("#" + name);
const sentence = (parent, text) => parent.append("p").attr("class", "soft").text(text);

function table(parent, columns, rows) {
  const drawn = parent.append("div").attr("class", "scroll").append("table");
  drawn.append("thead").append("tr").selectAll("th").data(columns).enter().append("th")
      .classed("number", column => column.number).text(column => column.head);
  drawn.append("tbody").selectAll("tr").data(rows).enter().append("tr").each(function(row) {
    for (const column of columns) column.cell(d3.select(this).append("td").classed("number", !!column.number), row);
  });
  return drawn;
}
const words = (head, text) => ({head, cell: (cell, row) => cell.text(text(row))});
const numbers = (head, place, format) => ({head, number: true, cell: (cell, row) => figure(cell, place(row), format)});
const folded = (parent, title) => {
  const details = parent.append("details");
  details.append("summary").text(title);
  return details;
};

function legend(parent, entries) {
  const items = parent.append("ul").attr("class", "legend").selectAll("li").data(entries).enter().append("li");
  const drawing = items.append("svg").attr("viewBox", "0 0 22 10").attr("aria-hidden", true);
  drawing.each(function(entry) {
    const here = d3.select(this);
    if (entry.line) here.append(entry.line === "one" ? "line" : "path").attr("class", `line ${entry.line}`)
        .attr("d", "M0,5H22").attr("x2", 22).attr("y1", 5).attr("y2", 5);
    if (entry.dot) here.append("circle").attr("class", entry.dot).attr("cx", 11).attr("cy", 5).attr("r", 4);
    if (entry.box) here.append("rect").attr("class", entry.box).attr("width", 22).attr("height", 10).attr("rx", 2);
  });
  items.append("span").text(entry => entry.text);
}

// A drawing as wide as its place: draw(svg, width, height).
function chart(parent, name, height, draw) {
  const place = parent.append("figure").attr("data-chart", name);
  const redraw = () => {
    const width = Math.max(240, place.node().clientWidth);
    const high = typeof height === "function" ? height(width) : height;
    place.selectAll("svg").remove();
    draw(place.insert("svg", ":first-child").attr("viewBox", `0 0 ${width} ${high}`).attr("role", "img").attr("aria-label", name),
         width, high);
  };
  drawings.push(redraw);
  return place;
}
const bottom = (svg, scale, top, label, width, axis) => {
  svg.append("g").attr("transform", `translate(0,${top})`).call(axis || d3.axisBottom(scale).ticks(Math.max(2, width / 90)).tickSizeOuter(0));
  svg.append("text").attr("class", "unit").attr("x", scale.range()[1]).attr("y", top + 34).attr("text-anchor", "end").text(label);
};
const grid = (svg, axis) => svg.append("g").attr("class", "grid").call(axis.tickFormat(""));
const layerAxis = (scale, width) => d3.axisBottom(scale).tickFormat(d3.format("d")).tickSizeOuter(0)
    .tickValues(scale.ticks(Math.max(2, Math.min(width / 48, scale.domain()[1] - scale.domain()[0]))).filter(Number.isInteger));
// Powers of ten around positive values.
const logDomain = values => {
  const low = Math.floor(Math.log10(d3.min(values))), high = Math.ceil(Math.log10(d3.max(values)));
  return [10 ** low, 10 ** Math.max(high, low + 1)];
};
const powers = scale => d3.range(Math.round(Math.log10(scale.domain()[0])), Math.round(Math.log10(scale.domain()[1])) + 1).map(n => 10 ** n);
const power = value => value >= 1 && value < 1e5 ? count(value) : value >= 1e-4 && value < 1 ? String(value) : d3.format(".0e")(value).replace("−", "-").replace("+", "");

// ---- head

function drawHead() {
  const {source, destination, verdict, figures, blocks, run} = report;
  document.title = `${destination}: nibblecast report`;
  d3.select("#origin").text(`${report.made_by} of ${source.hub || source.name}, ${run.finished.replace("T", " ").replace("Z", " UTC")}`);
  d3.select("#name").text(destination);
  d3.select("#verdict").classed("warned", !verdict.good).text(verdict.text);
  const card = label => {
    const box = d3.select("#cards").append("div").attr("class", "card");
    box.append("div").attr("class", "label").text(label);
    return {value: box.append("div").attr("class", "value"), more: box.append("div").attr("class", "more")};
  };
  const size = card("Size");
  figure(size.value, "/figures/bytes", bytes);
  if (figures.source_bytes !== null) figure(size.more.text("before: "), "/figures/source_bytes", bytes);
  const bits = card("Bits per weight");
  figure(bits.value, "/figures/bits_per_weight", d3.format(".2f"));
  if (figures.source_bits_per_weight !== null) {
    figure(bits.more.text("before: "), "/figures/source_bits_per_weight", d3.format(".2f"));
    bits.more.append("span").text("; ");
  }
  figure(bits.more, "/figures/parameters", parameters);
  bits.more.append("span").text(" weights");
  const lossless = card("Lossless blocks");
  figure(lossless.value, "/blocks/lossless_share", percent);
  if (blocks.total > 0) figure(lossless.more.text("of "), "/blocks/total", count);
  else lossless.more.text("no block was cast");
  const perplexity = card("Perplexity of the source");
  if (figures.perplexity) {
    figure(perplexity.value, "/figures/perplexity/value", plain);
    figure(perplexity.more.text("calibration rows, "), "/figures/perplexity/tokens", count);
    perplexity.more.append("span").text(" tokens");
  } else {
    perplexity.value.text("–");
    perplexity.more.text("was not measured");
  }
  const engines = card("Made for");
  engines.value.classed("words", true).text(figures.engines.join(", ") || "no engine was named");
  engines.more.text(figures.engines.length ? "keeps their loaders' rules" : "");
}

// ---- sizes

function drawSizes() {
  const here = section("sizes"), sizes = report.sizes, known = report.figures.source_bytes !== null;
  const largest = d3.max(sizes, kind => Math.max(kind.bytes, kind.source_bytes || 0)) || 1;
  const [unit, name] = unitOf(largest);
  legend(here, (known ? [{box: "before", text: "before"}] : []).concat({box: "after", text: "after"}));
  const row = 38, bar = 13;
  chart(here, "sizes", sizes.length * row + 46, (svg, width) => {
    const left = Math.min(140, width * 0.36), right = 76;
    const x = d3.scaleLinear([0, largest / unit], [left, width - right]).nice();
    grid(svg, d3.axisTop(x).ticks(Math.max(2, width / 110)).tickSize(-sizes.length * row));
    const rows = svg.selectAll("g.kind").data(sizes).enter().append("g").attr("class", "kind")
        .attr("transform", (kind, index) => `translate(0,${index * row + 4})`);
    rows.append("text").attr("class", "strong").attr("x", left - 8).attr("y", row / 2).attr("text-anchor", "end").text(kind => kind.kind);
    const sides = [["bytes", "after", known ? bar + 2 : 7]].concat(known ? [["source_bytes", "before", 1]] : []);
    for (const [key, side, y] of sides) {
      const formats = key === "bytes" ? "dtypes" : "source_dtypes";
      marked(rows.append("rect").attr("class", side).attr("x", left).attr("y", y).attr("height", bar).attr("rx", 2)
          .attr("width", kind => Math.max(kind[key] > 0 ? 1 : 0, x(kind[key] / unit) - left)),
          kind => pointer("sizes", sizes.indexOf(kind), key),
          kind => `${kind.kind}, ${side}: ${count(kind[key])} bytes\n${kind[formats].join(", ")}`);
      rows.append("text").attr("x", kind => x(kind[key] / unit) + 5).attr("y", y + 11).text(kind => bytes(kind[key]));
    }
    bottom(svg, x, sizes.length * row + 4, name, width);
  });
  const columns = [words("kind", kind => kind.kind)];
  if (known) columns.push(numbers("bytes before", kind => pointer("sizes", sizes.indexOf(kind), "source_bytes"), count));
  columns.push(numbers("bytes after", kind => pointer("sizes", sizes.indexOf(kind), "bytes"), count));
  columns.push(words("formats after", kind => kind.dtypes.join(", ")));
  table(folded(here, "the numbers"), columns, sizes);
}

// ---- blocks

function drawBlocks() {
  const here = section("blocks"), blocks = report.blocks;
  if (blocks.total === 0) {
    sentence(here, madeByOthers ? kUnknown : "No block was cast from MXFP4.");
    return;
  }
  sentence(here, "A block is 32 values that share a scale. A cast keeps its values exactly, unless the scale lies outside the range of E4M3; then the block is requantized.");
  const parts = [{key: "lossless", name: "exactly the source's values", style: "after"},
                 {key: "outside_window", name: "requantized", style: "outside"}];
  chart(here, "blocks", 74, (svg, width) => {
    const x = d3.scaleLinear([0, 1], [14, width - 16]);
    let begin = 0;
    for (const part of parts) {
      const share = blocks[part.key] / blocks.total, from = begin;
      marked(svg.selectAll(null).data([part]).enter().append("rect").attr("class", part.style).attr("x", x(from)).attr("y", 4)
          .attr("width", Math.max(share > 0 ? 2 : 0, x(share) - x(0))).attr("height", 26),
          () => pointer("blocks", part.key), () => `${part.name}: ${count(blocks[part.key])} blocks, ${percent(share)}`);
      begin += share;
    }
    bottom(svg, x, 34, "share of blocks", width, d3.axisBottom(x).ticks(5, "%").tickSizeOuter(0));
  });
  const rows = parts.concat({key: "zero", name: "of the exact ones: all zero"}, {key: "total", name: "all"});
  table(here, [words("blocks", part => part.name), numbers("number", part => pointer("blocks", part.key), count),
               {head: "share", number: true, cell: (cell, part) => cell.text(percent(blocks[part.key] / blocks.total))}], rows);
  if (blocks.most_outside_window.length === 0) return;
  const listed = folded(here, `tensors with requantized blocks: ${count(blocks.tensors_outside_window)}`);
  const indexed = blocks.most_outside_window.map((entry, index) => ({...entry, index}));
  table(listed, [words("tensor", entry => entry.tensor),
                 numbers("blocks", entry => pointer("blocks", "most_outside_window", entry.index, "blocks"), count)], indexed);
}

// ---- block scales

// What E4M3 holds: powers of two from the least subnormal to 256.
const kStoredPowers = [-9, 8];

function drawScales() {
  const here = section("scales"), scales = report.block_scales;
  if (!scales) {
    sentence(here, "No weight is NVFP4.");
    return;
  }
  const text = here.append("p").attr("class", "soft").text("Each block of 16 weights has a scale in E4M3, under one scale of its tensor. Below by powers of two: as stored, where few steps are left near 2⁻⁹, and with the tensor's scale, which in blocks that were cast is the source's exponent. ");
  if (scales.read < scales.blocks) {
    text.append("span").text("A sample: ");
    figure(text, "/block_scales/read", count);
    text.append("span").text(" of ");
  }
  figure(text, "/block_scales/blocks", count);
  text.append("span").text(" blocks.");
  legend(here, [{box: "c3", text: "as stored"}, {box: "c2", text: "with the tensor's scale"}]);
  const panels = here.append("div").attr("class", "panels");
  scales.kinds.forEach((kind, index) => {
    histogram(panels, `${kind.kind}, as stored`, kind, ["block_scales", "kinds", index, "stored"], "c3", kStoredPowers);
    histogram(panels, `${kind.kind}, with the tensor's scale`, kind, ["block_scales", "kinds", index, "exponents"], "c2");
  });
  const indexed = scales.kinds.map((kind, index) => ({...kind, index}));
  const cell = key => kind => pointer("block_scales", "kinds", kind.index, key);
  table(folded(here, "the numbers"), [words("kind", kind => kind.kind), numbers("blocks", cell("blocks"), count),
      numbers("looked at", cell("read"), count), numbers("of them zero", cell("zero"), count)], indexed);
}

const superscript = number => String(number).replace(/[-0-9]/g, letter => letter === "-" ? "⁻" : "⁰¹²³⁴⁵⁶⁷⁸⁹"[letter]);

// Bars by power of two; `range`: what is shown at least.
function histogram(parent, title, kind, keys, style, range) {
  const bins = at(pointer(...keys));
  if (bins.length === 0) return;
  const low = Math.min(bins[0].exponent, range ? range[0] : Infinity), high = Math.max(bins[bins.length - 1].exponent, range ? range[1] : -Infinity);
  parent = parent.append("div");
  parent.append("h3").text(title);
  chart(parent, title, 178, (svg, width, height) => {
    const x = d3.scaleLinear([low - 0.5, high + 0.5], [46, width - 12]);
    const y = d3.scaleLinear([0, d3.max(bins, bin => bin.blocks) / kind.read], [height - 44, 16]).nice(4);
    grid(svg.append("g").attr("transform", "translate(46,0)"), d3.axisLeft(y).ticks(4).tickSize(-(width - 58)));
    svg.append("g").attr("transform", "translate(46,0)").call(d3.axisLeft(y).ticks(4).tickFormat(value => `${plain(100 * value)} %`).tickSize(0)).select(".domain").remove();
    svg.append("text").attr("class", "unit").attr("y", 6).text("share of blocks");
    const step = x(1) - x(0);
    marked(svg.append("g").selectAll("rect").data(bins.map((bin, index) => ({...bin, index}))).enter().append("rect").attr("class", style)
        .attr("x", bin => x(bin.exponent - 0.5) + Math.min(1.5, step / 6)).attr("width", Math.max(1, step - Math.min(3, step / 3)))
        .attr("y", bin => Math.min(y(bin.blocks / kind.read), y(0) - 1)).attr("height", bin => Math.max(1, y(0) - y(bin.blocks / kind.read))),
        bin => pointer(...keys, bin.index, "blocks"), bin => `2${superscript(bin.exponent)}: ${count(bin.blocks)} blocks, ${percent(bin.blocks / kind.read)}`);
    const every = Math.ceil((high - low + 1) / Math.max(3, (width - 58) / 34));
    bottom(svg, x, height - 40, "scale, power of two", width, d3.axisBottom(x).tickValues(d3.range(low, high + 1).filter(value => (value - low) % every === 0))
        .tickFormat(value => `2${superscript(value)}`).tickSizeOuter(0));
  });
}

// ---- lines over layers

// Series of {layer, value, place}; one panel.
function layerPanel(parent, title, series, options) {
  const values = d3.merge(series.map(line => line.points.map(point => point.value))).filter(value => value > 0);
  parent = parent.append("div");
  parent.append("h3").text(title);
  if (values.length === 0) {
    sentence(parent, "0 in every layer");
    return;
  }
  const domain = options.domain || logDomain(values), last = d3.max(series, line => d3.max(line.points, point => point.layer));
  chart(parent, title, 196, (svg, width, height) => {
    const x = d3.scaleLinear([0, Math.max(1, last)], [54, width - 12]);
    const y = options.linear ? d3.scaleLinear([0, d3.max(values)], [height - 44, 16]).nice(4) : d3.scaleLog(domain, [height - 44, 16]).clamp(true);
    const ticks = options.linear ? y.ticks(4) : powers(y);
    grid(svg.append("g").attr("transform", "translate(46,0)"), d3.axisLeft(y).tickValues(ticks).tickSize(-(width - 56)));
    svg.append("g").attr("transform", "translate(46,0)").call(d3.axisLeft(y).tickValues(ticks).tickFormat(options.linear ? plain : power).tickSize(0)).select(".domain").remove();
    svg.append("text").attr("class", "unit").attr("x", 0).attr("y", 6).text(options.unit);
    bottom(svg, x, height - 40, "layer", width, layerAxis(x, width));
    if (options.line && options.line.value >= domain[0] && options.line.value <= domain[1]) {
      svg.append("line").attr("class", "one").attr("x1", 46).attr("x2", width - 10).attr("y1", y(options.line.value)).attr("y2", y(options.line.value));
      svg.append("text").attr("x", width - 10).attr("y", y(options.line.value) - 4).attr("text-anchor", "end").text(options.line.text);
    }
    const path = d3.line().defined(point => point.value > 0).x(point => x(point.layer)).y(point => y(point.value));
    for (const line of series) {
      svg.append("path").datum(line.points).attr("class", `line ${line.style}`).attr("d", path);
      const radius = Math.max(1.8, Math.min(3.5, (width - 56) / (last + 1) / 2.2));
      marked(svg.append("g").selectAll("circle").data(line.points.filter(point => isNumber(point.value))).enter().append("circle")
          .attr("class", line.dot).attr("r", radius).attr("cx", point => x(point.layer)).attr("cy", point => y(Math.max(point.value, y.domain()[0]))),
          point => point.place, point => `layer ${point.layer}, ${line.name}: ${plain(point.value)}${point.note || ""}`);
    }
  });
}

// ---- weights that were quantized, not cast

function drawRequantized() {
  const here = section("requantized"), found = report.requantized;
  if (!found) {
    sentence(here, madeByOthers ? kUnknown : "None: no weight was quantized to NVFP4 by another method than the cast.");
    return;
  }
  const text = here.append("p");
  figure(text, "/requantized/weights", count);
  text.append("span").text(" weights, with a relative error (norm of the error over that of the weight) of at most ");
  figure(text, "/requantized/largest", plain);
  text.append("span").text(".");
  const kinds = d3.nest().key(entry => entry.kind).entries(found.layers.map((entry, index) => ({...entry, index})));
  const panels = here.append("div").attr("class", "panels");
  legend(here, [{dot: "c0", text: "mean of the layer"}, {dot: "c1", text: "largest of the layer"}]);
  for (const kind of kinds) {
    const points = key => kind.values.map(entry => ({layer: entry.layer, value: entry[key], place: pointer("requantized", "layers", entry.index, key)}));
    layerPanel(panels, kind.key, [{name: "mean", style: "c0", dot: "c0", points: points("mean")},
                                  {name: "largest", style: "c1", dot: "c1", points: points("largest")}], {unit: "relative error", linear: true});
  }
  const worst = found.worst.map((entry, index) => ({...entry, index}));
  table(folded(here, "the largest errors"), [words("weight", entry => entry.tensor),
      numbers("relative error", entry => pointer("requantized", "worst", entry.index, "relative_error"), plain)], worst);
}

// ---- experts

// "1-3, 7"
function ranges(numbersAscending) {
  const parts = [];
  for (const number of numbersAscending) {
    const last = parts[parts.length - 1];
    if (last && last[1] + 1 === number) last[1] = number;
    else parts.push([number, number]);
  }
  return parts.map(part => part[0] === part[1] ? `${part[0]}` : `${part[0]}–${part[1]}`).join(", ");
}

function drawExperts() {
  const here = section("experts"), experts = report.experts;
  if (!experts) {
    sentence(here, "Nothing is known of experts: the model has none, or no calibration measured them.");
    return;
  }
  const text = here.append("p");
  if (experts.without_tokens === 0) text.append("span").text("Every expert saw tokens.");
  else {
    const one = experts.without_tokens === 1;
    figure(text.append("span").attr("class", "bad"), "/experts/without_tokens", count);
    text.append("span").text(" of ");
    figure(text, "/experts/experts", count);
    text.append("span").text(` experts saw no token and ${one ? "has the input scales of its layer" : "have the input scales of their layers"}; more or other texts would reach ${one ? "it" : "them"}.`);
  }
  if (experts.least_tokens) {
    text.append("span").text(" The fewest: ");
    figure(text, "/experts/least_tokens/tokens", count);
    text.append("span").text(` (layer ${experts.least_tokens.layer}, expert ${experts.least_tokens.expert}).`);
  }
  const layers = experts.layers.filter(layer => layer.tokens.length > 0);
  if (layers.length > 0) drawHeatMap(here, layers);
  const starved = experts.layers.map((layer, index) => ({...layer, index})).filter(layer => layer.experts_without_tokens.length > 0);
  if (starved.length === 0) return;
  const list = starved.length > 6 ? folded(here, `the experts without tokens, in ${starved.length} layers`) : here;
  table(list, [words("layer", layer => layer.layer), words("experts without tokens", layer => ranges(layer.experts_without_tokens))], starved)
      .attr("id", "starved");
}

function drawHeatMap(here, layers) {
  const most = d3.max(layers, layer => d3.max(layer.tokens)) || 1, widest = d3.max(layers, layer => layer.tokens.length);
  const rowHeight = Math.max(5, Math.min(26, 440 / layers.length)), top = 6, left = 40;
  const heat = layers.length * rowHeight;
  const place = chart(here, "tokens", heat + 98, (svg, width) => {
    const style = getComputedStyle(document.documentElement), colour = name => style.getPropertyValue(name).trim();
    // By the square root: few tokens are told apart better than many.
    const shade = d3.interpolateLab(colour("--heat-0"), colour("--heat-1"));
    const tone = tokens => shade(Math.sqrt(tokens / most));
    const x = d3.scaleLinear([0, widest], [left, width - 10]), y = d3.scaleLinear([0, layers.length], [top, top + heat]);
    svg.append("image").attr("href", cells(layers, x, y, tone, colour("--bad"))).attr("x", left).attr("y", top)
        .attr("width", width - 10 - left).attr("height", heat).attr("preserveAspectRatio", "none");
    const over = svg.append("rect").attr("class", "cells").attr("x", left).attr("y", top).attr("width", width - 10 - left).attr("height", heat)
        .attr("fill", "transparent");
    over.on("mousemove", function() {
      const [px, py] = d3.mouse(this), layer = layers[Math.min(layers.length - 1, Math.floor(y.invert(py)))], expert = Math.floor(x.invert(px));
      if (layer && expert >= 0 && expert < layer.tokens.length)
        show(`layer ${layer.layer}, expert ${expert}: ${count(layer.tokens[expert])} tokens`, d3.event.clientX, d3.event.clientY);
    }).on("mouseleave", hide);
    svg.append("g").attr("transform", `translate(0,${top + heat})`).call(d3.axisBottom(x).ticks(Math.max(2, width / 80)).tickSizeOuter(0));
    svg.append("text").attr("class", "unit").attr("x", width - 10).attr("y", top + heat + 32).attr("text-anchor", "end").text("expert");
    const every = Math.ceil(14 / rowHeight), shown = layers.map((_, index) => index).filter(index => index % every === 0);
    svg.append("g").attr("transform", `translate(${left},0)`).call(d3.axisLeft(y).tickValues(shown.map(index => index + 0.5))
        .tickFormat(value => layers[Math.floor(value)].layer).tickSize(3)).select(".domain").remove();
    svg.append("text").attr("class", "unit").attr("transform", `translate(10,${top + heat / 2}) rotate(-90)`).attr("text-anchor", "middle").text("layer");
    heatLegend(svg, left, top + heat + 48, Math.min(260, width - left - 80), most, tone);
  });
  place.append("figcaption").text("Red: an expert that saw no token.");
}

// Every expert of every layer, as a picture of the screen's own pixels.
function cells(layers, x, y, tone, bad) {
  const dense = Math.max(2, window.devicePixelRatio || 1), left = x.range()[0], top = y.range()[0];
  const canvas = document.createElement("canvas");
  canvas.width = Math.round((x.range()[1] - left) * dense);
  canvas.height = Math.round((y.range()[1] - top) * dense);
  const pen = canvas.getContext("2d"), edge = value => Math.round(value * dense);
  const gap = x(1) - x(0) > 8 ? dense : 0;
  const fill = (row, expert, least) => {
    const from = edge(x(expert) - left), to = Math.max(from + least, edge(x(expert + 1) - left) - gap);
    const above = edge(y(row) - top), below = edge(y(row + 1) - top) - (y(1) - y(0) > 8 ? dense : 0);
    pen.fillRect(from, above, to - from, below - above);
  };
  layers.forEach((layer, row) => layer.tokens.forEach((tokens, expert) => {
    pen.fillStyle = tone(tokens);
    fill(row, expert, 1);
  }));
  pen.fillStyle = bad;
  // Last, and never thinner than can be seen.
  layers.forEach((layer, row) => layer.tokens.forEach((tokens, expert) => { if (tokens === 0) fill(row, expert, 2 * dense); }));
  return canvas.toDataURL();
}

function heatLegend(svg, left, top, width, most, tone) {
  const steps = 48, x = d3.scaleSqrt([0, most], [left, left + width]);
  svg.selectAll("rect.step").data(d3.range(steps)).enter().append("rect").attr("class", "step").attr("x", step => left + step * width / steps)
      .attr("y", top).attr("width", width / steps + 0.5).attr("height", 9).attr("fill", step => tone(most * ((step + 0.5) / steps) ** 2));
  const ticks = x.ticks(5).reduce((kept, value) => kept.length === 0 || x(value) - x(kept[kept.length - 1]) > 38 ? kept.concat(value) : kept, []);
  svg.append("g").attr("transform", `translate(0,${top + 9})`).call(d3.axisBottom(x).tickValues(ticks).tickSize(3)).select(".domain").remove();
  svg.append("text").attr("class", "unit").attr("x", left + width + 8).attr("y", top + 9).text("tokens");
}

// ---- activations

const kOne = 2688;  // what an input_scale of 1.0 reaches: 6 * 448

function drawActivations() {
  const here = section("activations"), layers = report.layers;
  const taps = Array.from(new Set(d3.merge(layers.map(layer => Object.keys(layer.taps))))).sort();
  if (taps.length === 0) {
    sentence(here, "No activation was measured.");
    return;
  }
  sentence(here, "The largest magnitude that went into the linears of each layer, by input. What the weights prove cannot be passed; what the engines' scale reaches is input_scale × 2688, the largest of the layer's linears.");
  legend(here, [{dot: "point-amax", line: "c0", text: "measured"}, {line: "bound", text: "proven bound"},
                {line: "scale", text: "reach of the scale that engines use"}, {line: "one", text: "reach of input_scale 1.0"}]);
  const panels = here.append("div").attr("class", "panels");
  const all = d3.merge(layers.map(layer => d3.merge(d3.values(layer.taps).map(
      tap => [tap.amax, tap.bound, isNumber(tap.input_scale) ? tap.input_scale * kOne : null])))).filter(value => value > 0);
  const domain = logDomain(all.concat(kOne));
  for (const name of taps) {
    const points = (key, factor) => layers.map((layer, index) => ({layer, index})).filter(({layer}) => layer.taps[name] && isNumber(layer.taps[name][key]))
        .map(({layer, index}) => ({layer: layer.layer, value: layer.taps[name][key] * factor, place: pointer("layers", index, "taps", name, key),
                                   note: key === "input_scale" ? ` (input_scale ${plain(layer.taps[name][key])})` : ""}));
    const series = [{name: "proven bound", style: "bound", dot: "point-bound", points: points("bound", 1)},
                    {name: "reach of the engines' scale", style: "scale", dot: "point-scale", points: points("input_scale", kOne)},
                    {name: "measured", style: "c0", dot: "point-amax", points: points("amax", 1)}].filter(line => line.points.length > 0);
    layerPanel(panels, name, series, {unit: "largest |x|", domain, line: {value: kOne, text: "input_scale 1.0"}});
  }
  const rows = taps.map(name => {
    const known = layers.map((layer, index) => ({index, layer: layer.layer, tap: layer.taps[name]})).filter(entry => entry.tap && isNumber(entry.tap.amax));
    return known.length ? {name, ...known.reduce((a, b) => b.tap.amax > a.tap.amax ? b : a)} : null;
  }).filter(row => row);
  const cell = key => row => pointer("layers", row.index, "taps", row.name, key);
  table(folded(here, "the largest of all layers"), [words("input", row => row.name), words("layer", row => row.layer),
      numbers("largest |x|", cell("amax"), plain), numbers("proven bound", cell("bound"), plain),
      numbers("input_scale", cell("input_scale"), plain)], rows);
}

// ---- evaluation

const kPercentiles = [["kl_median", "50 %"], ["kl_p90", "90 %"], ["kl_p99", "99 %"], ["kl_p999", "99.9 %"], ["kl_max", "100 %"]];

function drawEvaluation() {
  const here = section("evaluation"), evaluation = report.evaluation;
  if (!evaluation) {
    const text = sentence(here, "Not measured yet: ");
    text.append("code").text("nibblecast evaluate SRC DST --json");
    text.append("span").text(" measures it, and ");
    text.append("code").text("nibblecast report DST --evaluation FILE");
    text.append("span").text(" shows what that printed.");
    return;
  }
  const models = evaluation.models.map((model, index) => ({...model, index, style: `c${(index + 3) % 4}`}));
  const candidates = models.filter(model => model.against_source);
  const text = here.append("p").attr("class", "soft").text("Over ");
  figure(text, "/evaluation/tokens", count);
  text.append("span").text(" tokens of ");
  figure(text, "/evaluation/rows", count);
  text.append("span").text(" rows. KL divergence is that of each token's distribution over the whole vocabulary from the source's, in nats.");
  const measures = [["perplexity", "perplexity", plain], ["KL, mean", "kl_mean", plain], ["its standard error", "kl_stderr", plain],
                    ["same top token", "top1_agreement", percent], ["its top token among 5", "top5_agreement", percent],
                    ["log p of the token that came: change, mean", "logprob_delta_mean", plain], ["the same, RMS", "logprob_delta_rms", plain]];
  const place = (model, key) => pointer("evaluation", "models", model.index, ...(key === "perplexity" ? [key] : ["against_source", key]));
  table(here, [words("", ([head]) => head)].concat(models.map(
      model => ({head: model.path, number: true, cell: (cell, [, key, format]) => figure(cell, place(model, key), format)}))), measures);
  if (candidates.length === 0) return;
  for (const model of candidates) drawInputScales(here, model);
  here.append("h3").text("KL divergence: how many tokens stay below");
  legend(here, candidates.map(model => ({dot: model.style, text: model.path})));
  drawPercentiles(here, candidates);
  drawLayerErrors(here, candidates);
  for (const model of candidates) drawWorst(here, model);
}

const kRuleNames = {own: "each expert its own"};
const ruleName = rule => kRuleNames[rule] || (rule[0] === "p" ? `${rule.slice(1)} % of blocks below` : rule[0] === "x" ? `${rule.slice(1)} times calibrated`
    : rule[0] === "/" ? `calibrated / ${rule.slice(1)}` : `${rule} for every input`);

// Of `evaluate --input-scale-sweep`.
function drawInputScales(here, model) {
  const scales = (model.input_scales || []).map((scale, index) => ({...scale, index}));
  if (scales.length === 0) return;
  here.append("h3").text(`What other input scales of ${model.path} would lose`);
  sentence(here, "Calibrated: the checkpoint's, as engines reduce them when they load.");
  const values = scales.map(scale => scale.against_source.kl_mean).filter(value => value > 0);
  const place = (scale, ...keys) => pointer("evaluation", "models", model.index, "input_scales", scale.index, ...keys);
  const row = 24;
  if (values.length > 0) chart(here, "input scales", scales.length * row + 46, (svg, width) => {
    const left = Math.min(210, width * 0.45), x = d3.scaleLog(logDomain(values), [left, width - 62]).clamp(true);
    grid(svg, d3.axisTop(x).tickValues(powers(x)).tickSize(-scales.length * row));
    const rows = svg.selectAll("g.rule").data(scales).enter().append("g").attr("class", "rule").attr("transform", (_, index) => `translate(0,${index * row + 2})`);
    rows.append("text").attr("class", "strong").attr("x", left - 8).attr("y", 15).attr("text-anchor", "end").text(scale => ruleName(scale.input_scale));
    const from = scale => x(Math.max(scale.against_source.kl_mean, x.domain()[0]));
    rows.append("line").attr("class", "whisker").attr("y1", 11).attr("y2", 11).attr("x1", x.range()[0]).attr("x2", from);
    marked(rows.append("circle").attr("class", model.style).attr("r", 5).attr("cy", 11).attr("cx", from),
        scale => place(scale, "against_source", "kl_mean"), scale => `${ruleName(scale.input_scale)}: KL ${plain(scale.against_source.kl_mean)} ± ${plain(scale.against_source.kl_stderr)} nats`);
    rows.append("text").attr("x", scale => from(scale) + 9).attr("y", 15).text(scale => plain(scale.against_source.kl_mean));
    bottom(svg, x, scales.length * row + 4, "KL divergence, nats a token", width, d3.axisBottom(x).tickValues(powers(x)).tickFormat(power).tickSizeOuter(0));
  });
  table(folded(here, "the numbers"), [words("input_scale", scale => ruleName(scale.input_scale)), numbers("KL", scale => place(scale, "against_source", "kl_mean"), plain),
      numbers("same top token", scale => place(scale, "against_source", "top1_agreement"), percent),
      numbers("perplexity", scale => place(scale, "perplexity"), plain), numbers("saturated blocks", scale => place(scale, "saturated_blocks"), value => isNumber(value) ? count(value) : "–")], scales);
}

function drawPercentiles(here, candidates) {
  const values = d3.merge(candidates.map(model => kPercentiles.map(([key]) => model.against_source[key]))).filter(value => value > 0);
  if (values.length === 0) {
    sentence(here, "It is 0 for every token.");
    return;
  }
  chart(here, "KL divergence", 240, (svg, width, height) => {
    const x = d3.scalePoint(kPercentiles.map(([, name]) => name), [56, width - 14]).padding(0.4), y = d3.scaleLog(logDomain(values), [height - 42, 18]).clamp(true);
    grid(svg.append("g").attr("transform", "translate(56,0)"), d3.axisLeft(y).tickValues(powers(y)).tickSize(-(width - 70)));
    svg.append("g").attr("transform", "translate(56,0)").call(d3.axisLeft(y).tickValues(powers(y)).tickFormat(power).tickSize(0)).select(".domain").remove();
    svg.append("text").attr("class", "unit").attr("y", 8).text("nats");
    svg.append("g").attr("transform", `translate(0,${height - 38})`).call(d3.axisBottom(x).tickSizeOuter(0));
    svg.append("text").attr("class", "unit").attr("x", width - 14).attr("y", height - 4).attr("text-anchor", "end").text("share of tokens");
    for (const model of candidates) {
      const points = kPercentiles.map(([key, name]) => ({key, name, value: model.against_source[key]})).filter(point => isNumber(point.value));
      svg.append("path").datum(points.filter(point => point.value > 0)).attr("class", `line ${model.style}`)
          .attr("d", d3.line().x(point => x(point.name)).y(point => y(point.value)));
      marked(svg.append("g").selectAll("circle").data(points).enter().append("circle").attr("class", model.style).attr("r", 4.5)
          .attr("cx", point => x(point.name)).attr("cy", point => y(Math.max(point.value, y.domain()[0]))),
          point => pointer("evaluation", "models", model.index, "against_source", point.key),
          point => `${model.path}\n${point.name} of tokens are below ${plain(point.value)} nats`);
    }
  });
}

function drawLayerErrors(here, candidates) {
  const measures = [["stream_error", "residual stream", "relative error"], ["mixer_error", "attention's output", "relative error"],
                    ["ffn_error", "feed-forward's output", "relative error"], ["routing_moved", "routings that moved", "share"]];
  here.append("h3").text("Error by layer, against the source");
  const panels = here.append("div").attr("class", "panels");
  for (const [key, title, unit] of measures) {
    const series = candidates.map(model => ({name: model.path, style: model.style, dot: model.style, points: (model.layers || [])
        .map((layer, index) => ({layer: layer.layer, value: layer[key], place: pointer("evaluation", "models", model.index, "layers", index, key)}))
        .filter(point => isNumber(point.value))})).filter(line => line.points.length > 0);
    if (series.length > 0) layerPanel(panels, title, series, {unit});
  }
}

// As texts where the report has them, else as ids.
function drawWorst(here, model) {
  const worst = (model.worst_tokens || []).map((token, index) => ({...token, index}));
  if (worst.length === 0) return;
  const isText = value => typeof value === "string";
  const around = (token, side) => isText(token[side]) ? token[side] : (token[`ids_${side}`] || []).join(" ");
  here.append("h3").text(`The worst tokens of ${model.path}`);
  const context = {head: worst.some(token => isText(token.token)) ? "in context" : "in context (token ids)", cell: (cell, token) => {
    cell.attr("class", "context").append("span").text(around(token, "before") + (isText(token.before) ? "" : " "));
    cell.append("b").text(isText(token.token) ? token.token : token.id);
    cell.append("span").text((isText(token.after) ? "" : " ") + around(token, "after"));
  }};
  const cell = key => token => pointer("evaluation", "models", model.index, "worst_tokens", token.index, key);
  table(here, [context, numbers("KL, nats", cell("kl"), plain), numbers("row", cell("row"), count)], worst);
}

// ---- the run

function drawRun() {
  const here = section("run"), run = report.run;
  const attempts = run.attempts.map(attempt => ({...attempt, from: new Date(attempt.began), to: new Date(attempt.ended)}));
  const text = here.append("p");
  text.append("span").text("Read ");
  figure(text, "/run/bytes/read", bytes);
  text.append("span").text(" and wrote ");
  figure(text, "/run/bytes/written", bytes);
  text.append("span").text(" in ");
  figure(text, "/run/seconds", duration);
  text.append("span").text(attempts.length > 1 ? `, in the last of ${attempts.length} attempts.` : ".");
  const dated = attempts.filter(attempt => isNumber(+attempt.from) && isNumber(+attempt.to));
  drawStages(here);
  if (attempts.length > 1) here.append("h3").text("Attempts");
  if (attempts.length > 1 && dated.length > 0) drawTimes(here, attempts, dated);
  const seconds = attempt => (attempt.to - attempt.from) / 1000;
  if (attempts.length > 0) table(here, [words("began (UTC)", attempt => attempt.began.replace("T", " ").replace("Z", "")),
               {head: "took", number: true, cell: (cell, attempt) => cell.text(duration(seconds(attempt)))},
               {head: "ended", cell: (cell, attempt) => cell.attr("class", attempt.end === "finished" ? "good" : "bad").text(attempt.end || "killed")},
               words("version", attempt => attempt.version)], attempts);
  const activations = report.activations;
  const rows = d3.entries(report.options).concat(activations.kind ? [{key: "activations", value: activations.kind}] : [],
      ["origin", "rows", "tokens", "longest_row"].filter(key => activations[key] !== undefined).map(key => ({key: `activations: ${key}`, value: activations[key]})));
  table(folded(here, "options"), [words("option", row => row.key.replace(/_/g, " ")),
      words("value", row => Array.isArray(row.value) ? row.value.join(", ") : row.value === null ? "–" : isNumber(row.value) ? count(row.value) : row.value)], rows);
}

// What the thread that runs everything did, one after the other; a device works beside it.
const kParts = [["forward", "computing", "c0"], ["make", "making weights", "c2"], ["read_wait", "waiting for reads", "c1"], ["write_wait", "waiting for writes", "c3"],
                ["save", "saving the state", "saving"], ["other", "else", "before"]];
const kDevice = [["bus", "bytes crossing the bus"], ["device", "the device computing"]];

function drawStages(here) {
  const {times, stages} = report.run;
  if (!times) return;
  const parts = kParts.filter(([key]) => times[key] > 0), onDevice = times.bus > 0 || times.device > 0;
  here.append("h3").text(report.run.attempts.length > 1 ? "Where the time of the last attempt went" : "Where the time went");
  legend(here, parts.map(([, name, style]) => ({box: style, text: name})).concat(onDevice ? kDevice.map(([key, name]) => ({line: key, text: `${name}, beside it`})) : []));
  const longest = d3.max(stages, stage => Math.max(stage.seconds, stage.bus, stage.device)) || 1;
  const [unit, name] = longest > 180 ? [60, "minutes"] : [1, "seconds"];
  chart(here, "time by stage", 220, (svg, width, height) => {
    const x = d3.scaleBand(d3.range(stages.length), [46, width - 12]).paddingInner(stages.length > 40 ? 0.1 : 0.25).paddingOuter(0.1);
    const y = d3.scaleLinear([0, longest / unit], [height - 44, 16]).nice(4);
    grid(svg.append("g").attr("transform", "translate(46,0)"), d3.axisLeft(y).ticks(4).tickSize(-(width - 58)));
    svg.append("g").attr("transform", "translate(46,0)").call(d3.axisLeft(y).ticks(4).tickFormat(plain).tickSize(0)).select(".domain").remove();
    svg.append("text").attr("class", "unit").attr("y", 6).text(name);
    stages.forEach((stage, index) => {
      const other = Math.max(0, stage.seconds - d3.sum(kParts, ([key]) => stage[key] || 0));
      let sum = 0;
      const data = parts.map(([key, words, style]) => {
        const value = key === "other" ? other : stage[key], from = sum;
        sum += value;
        return {key, words, style, value, from};
      }).filter(part => part.value > 0);
      const rects = svg.append("g").selectAll("rect").data(data).enter().append("rect").attr("class", part => part.style).attr("x", x(index)).attr("width", Math.max(1, x.bandwidth()))
          .attr("y", part => y((part.from + part.value) / unit)).attr("height", part => y(part.from / unit) - y((part.from + part.value) / unit));
      const words = part => `${stage.stage}, ${part.words}: ${duration(part.value)} of ${duration(stage.seconds)}`;
      marked(rects.filter(part => part.key !== "other"), part => pointer("run", "stages", index, part.key), words);
      rects.filter(part => part.key === "other").on("mousemove", part => show(words(part), d3.event.clientX, d3.event.clientY)).on("mouseleave", hide);
    });
    if (onDevice) for (const [key] of kDevice) {
      svg.append("path").datum(stages).attr("class", `line ${key}`).attr("d", d3.line().x((_, index) => x(index) + x.bandwidth() / 2).y(stage => y(stage[key] / unit)));
    }
    const every = Math.ceil(stages.length / Math.max(2, (width - 58) / 58));
    const label = index => stages[index].stage.replace("layer ", "");
    bottom(svg, x, height - 40, "stage; numbers are layers", width, d3.axisBottom(x).tickValues(d3.range(stages.length).filter(index => index % every === 0)).tickFormat(label).tickSizeOuter(0));
  });
  const rows = parts.map(([key, words]) => ({key, words})).concat(onDevice ? kDevice.map(([key, words]) => ({key, words: `beside it: ${words}`})) : []);
  table(here, [words("time", row => row.words), numbers("took", row => pointer("run", "times", row.key), duration),
               {head: "share", number: true, cell: (cell, row) => cell.text(percent(times[row.key] / times.seconds))}], rows);
}

function drawTimes(here, attempts, dated) {
  const begun = attempts.filter(attempt => isNumber(+attempt.from));
  const begin = d3.min(begun, attempt => +attempt.from), end = d3.max(dated, attempt => +attempt.to), total = Math.max(1, (end - begin) / 1000);
  const [unit, name] = total > 7200 ? [3600, "hours since the first began"] : total > 180 ? [60, "minutes since the first began"] : [1, "seconds since the first began"];
  const row = 22;
  chart(here, "attempts", attempts.length * row + 46, (svg, width) => {
    const x = d3.scaleLinear([0, total / unit], [22, width - 10]);
    grid(svg, d3.axisTop(x).ticks(Math.max(2, width / 100)).tickSize(-attempts.length * row - 2));
    const bars = svg.selectAll("g.attempt").data(attempts).enter().append("g").attr("class", "attempt").attr("transform", (_, index) => `translate(0,${index * row + 4})`);
    bars.append("text").attr("x", 14).attr("y", 12).attr("text-anchor", "end").text((_, index) => index + 1);
    // A killed one has a beginning, but no end that is known.
    const endOf = attempt => isNumber(+attempt.to) ? attempt.to : attempt.from;
    bars.filter(attempt => isNumber(+attempt.from)).append("rect")
        .attr("class", attempt => `mark ${attempt.end === "finished" ? "after" : attempt.end ? "before" : "outside"}`)
        .attr("x", attempt => x((attempt.from - begin) / 1000 / unit)).attr("height", 15).attr("rx", 2)
        .attr("width", attempt => Math.max(3, x((endOf(attempt) - begin) / 1000 / unit) - x((attempt.from - begin) / 1000 / unit)))
        .on("mousemove", attempt => show(`${attempt.end ? `${attempt.end} after ${duration((attempt.to - attempt.from) / 1000)}` : "killed"}\nlast: ${attempt.last || "nothing durable"}`,
                                         d3.event.clientX, d3.event.clientY)).on("mouseleave", hide);
    bottom(svg, x, attempts.length * row + 6, name, width);
  });
}

// ---- commands

function drawCommands() {
  const here = section("commands"), commands = report.commands;
  const block = (title, text) => {
    here.append("h3").text(title);
    here.append("pre").text(text);
  };
  if (commands.reproduce) block("How it was made (names instead of paths)", commands.reproduce);
  if (commands.verify) block("Is it right? Reads every byte of both", commands.verify);
  if (commands.checksums) block("Is it still what was written?", commands.checksums);
  if (commands.serve.length > 0) block("Serve it (N: GPUs)", commands.serve.join("\n"));
}

function drawFoot() {
  d3.select("footer").text(`nibblecast ${report.version}. The figures of this page are in report.json beside it; charts by D3 ${d3.version} (licence in the page's source).`);
}

for (const draw of [drawHead, drawSizes, drawBlocks, drawScales, drawRequantized, drawEvaluation, drawExperts, drawActivations, drawRun, drawCommands, drawFoot]) draw();
const redrawAll = () => drawings.forEach(redraw => redraw());
redrawAll();
let width = innerWidth;
addEventListener("resize", () => {
  if (innerWidth === width) return;
  width = innerWidth;
  redrawAll();
});
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", redrawAll);
document.getElementById("theme").addEventListener("click", () => {
  const root = document.documentElement, dark = root.dataset.theme ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
  root.dataset.theme = dark ? "light" : "dark";
  redrawAll();
});
document.documentElement.dataset.ready = "yes";
})();
