#include "formats/fp8_quantize.h"

#include <cmath>
#include <cstring>
#include <string>
#include <vector>

#include "base/file.h"
#include "base/json.h"
#include "formats/hex.h"
#include "formats/isa_test.h"
#include "formats/nvfp4.h"
#include "testing.h"

namespace nibblecast {
namespace {

using testing::bf16_from_hex;
using testing::from_hex;
using testing::random_bytes;
using Bytes = std::vector<uint8_t>;

struct Encoded {
  Bytes codes, scales;
  bool operator==(const Encoded&) const = default;
};

using QuantizeTiles = void (*)(const bf16*, const Fp8Tiles&, uint8_t*, void*);

// Scales one off every alignment.
Encoded quantize(QuantizeTiles quantize_tiles, const bf16* values, const Fp8Tiles& tiles) {
  const size_t count = ((tiles.rows + tiles.tile_rows - 1) / tiles.tile_rows) *
                       ((tiles.cols + tiles.tile_cols - 1) / tiles.tile_cols);
  const size_t scale_bytes = count * (tiles.scale_type == ScaleType::kF32 ? 4 : 1);
  Encoded encoded = {Bytes(tiles.rows * tiles.cols), Bytes(scale_bytes + 1)};
  quantize_tiles(values, tiles, encoded.codes.data(), encoded.scales.data() + 1);
  encoded.scales.erase(encoded.scales.begin());
  return encoded;
}

std::vector<bf16> every_finite_bf16() {
  std::vector<bf16> values;
  for (uint32_t bits = 0; bits < 65536; ++bits) {
    if ((bits & 0x7f80) != 0x7f80) values.push_back({static_cast<uint16_t>(bits)});
  }
  return values;
}

class Fp8Quantize : public testing::IsaTest {};

TEST_P(Fp8Quantize, GivesModelOptsBytes) {
  const std::string file = std::string(NIBBLECAST_SOURCE_DIR) + "/tests/formats/golden/fp8_weights.json";
  const Json golden = parse_json(read_text(system_files(), file, 1 << 20), file);
  ASSERT_EQ(golden["cases"].size(), 11u);
  for (const Json& expected : golden["cases"]) {
    SCOPED_TRACE(expected["name"].get<std::string>() + ", tile " + expected["tile"].dump());
    const std::vector<bf16> values = bf16_from_hex(expected["values"]);
    const Encoded wanted = {from_hex(expected["codes"]), from_hex(expected["scales"])};
    const size_t tile = expected["tile"];
    if (tile != 0) {
      EXPECT_EQ(quantize(quantize_fp8_tiles, values.data(), {expected["rows"], expected["cols"], tile, tile}),
                wanted);
      continue;
    }
    float amax = 0;
    for (const bf16 value : values) amax = std::max(amax, std::fabs(to_float(value)));
    const float scale = fp8_tensor_scale(amax);
    Encoded found = {Bytes(values.size()), Bytes(4)};
    std::memcpy(found.scales.data(), &scale, 4);
    encode_fp8_tensor(values.data(), values.size(), scale, found.codes.data());
    EXPECT_EQ(found, wanted);
  }
}

TEST_P(Fp8Quantize, EncodesEveryMagnitudeAsTheReference) {
  const std::vector<bf16> values = every_finite_bf16();
  Bytes expected(values.size()), found(values.size());
  for (const float scale : {1.0f, 0.0371f, 3e-5f, 7e35f, 1e-38f, 3e-42f, 0x1p-40f}) {
    encode_fp8_tensor_ref(values.data(), values.size(), scale, expected.data());
    encode_fp8_tensor(values.data(), values.size(), scale, found.data());
    EXPECT_EQ(found, expected) << scale;
    for (const ScaleType type : {ScaleType::kF32, ScaleType::kE8M0}) {  // a row for each exponent: all amaxes
      const Fp8Tiles tiles = {values.size() / 128, 128, 1, 7, type};
      EXPECT_EQ(quantize(quantize_fp8_tiles, values.data(), tiles),
                quantize(quantize_fp8_tiles_ref, values.data(), tiles));
    }
  }
}

TEST_P(Fp8Quantize, EveryShapeAsTheReference) {
  std::vector<bf16> values = every_finite_bf16();
  for (size_t i = 0; i < values.size(); ++i) std::swap(values[i], values[i * 40503 % values.size()]);
  for (size_t cols = 1; cols <= 70; ++cols) {
    for (const ScaleType type : {ScaleType::kF32, ScaleType::kE8M0}) {
      const Fp8Tiles tiles = {5, cols, 2, 16, type};
      EXPECT_EQ(quantize(quantize_fp8_tiles, values.data() + cols, tiles),
                quantize(quantize_fp8_tiles_ref, values.data() + cols, tiles));
    }
  }
}

TEST_P(Fp8Quantize, ChoosesTheLeastPowerOfTwoThatHoldsTheTile) {
  for (const bf16 value : every_finite_bf16()) {
    const double amax = std::fabs(to_float(value));
    const Encoded encoded = quantize(quantize_fp8_tiles, &value, {1, 1, 1, 1, ScaleType::kE8M0});
    if (amax == 0) {
      ASSERT_EQ(encoded.scales[0], 127);
      continue;
    }
    const double scale = decode_e8m0(encoded.scales[0]);
    ASSERT_LE(amax / scale, 448) << amax;
    ASSERT_TRUE(encoded.scales[0] == 0 || amax / (scale / 2) > 448) << amax;
  }
}

// What is FP8 with E8M0 scales stays as it is where its tile's amax uses the upper half of the range.
TEST_P(Fp8Quantize, GivesBackWhatWasFp8) {
  Bytes codes = random_bytes(64 * 64, 9);
  for (uint8_t& code : codes) code = static_cast<uint8_t>(code % 127 | (code & 0x80));
  for (size_t i = 0; i < codes.size(); i += 8) codes[i] = 0x7e;  // every tile reaches 448
  Bytes scales = random_bytes(64, 10);
  for (uint8_t& scale : scales) scale = static_cast<uint8_t>(20 + scale % 200);
  std::vector<bf16> values(64 * 64);
  dequantize_fp8_block({codes.data(), scales.data(), ScaleType::kE8M0, 64, 64, 8, 8}, 0, 64, values.data(),
                       64);
  const Encoded encoded = quantize(quantize_fp8_tiles, values.data(), {64, 64, 8, 8, ScaleType::kE8M0});
  EXPECT_EQ(encoded.codes, codes);
  EXPECT_EQ(encoded.scales, scales);
}

TEST_P(Fp8Quantize, MakesPlainZerosOfZeros) {
  const std::vector<bf16> zeros(32);
  EXPECT_EQ(quantize(quantize_fp8_tiles, zeros.data(), {4, 8, 4, 8}),
            (Encoded{Bytes(32), {0, 0, 0x80, 0x3f}}));
  EXPECT_EQ(fp8_tensor_scale(0), 1.0f);
}

INSTANTIATE_FOR_EVERY_ISA(Fp8Quantize);

}  // namespace
}  // namespace nibblecast
