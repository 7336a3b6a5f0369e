# Sourced by the benchmark scripts: results/NAME.csv gets a line for every measurement, after those that are there.
# csv_row NAME COLUMNS VALUE...      COLUMNS: of the header, with commas; date and machine come before them
csv_folder=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)/results
csv_row() {
  local file=$csv_folder/$1.csv
  local columns=$2; shift 2
  [ -e "$file" ] || echo "date,machine,$columns" > "$file"
  local IFS=,
  echo "$(date -u +%F),$csv_machine,$*" >> "$file"
}
csv_machine="$(nproc) x $(sed -n 's/^model name[^:]*: *//p' /proc/cpuinfo | head -n 1 | tr -d ',')"
