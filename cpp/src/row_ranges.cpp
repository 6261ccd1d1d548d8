#include "row_ranges.hpp"

#include <algorithm>

namespace itop {

std::vector<std::int64_t> cut_rows(const PositionList& positions, int num_threads) {
  constexpr std::int64_t kEntriesWorthARange = 16384;
  const std::int64_t count = positions.count();
  const std::int64_t num_ranges =
      std::clamp<std::int64_t>((count + positions.num_rows) / kEntriesWorthARange, 1, std::int64_t{8} * num_threads);
  std::vector<std::int64_t> cuts{0};
  for (std::int64_t range = 1; range < num_ranges; ++range) {
    const std::int64_t row = std::lower_bound(positions.row_pointers, positions.row_pointers + positions.num_rows,
                                              count * range / num_ranges) -
                             positions.row_pointers;
    if (row > cuts.back() && row < positions.num_rows) cuts.push_back(row);
  }
  cuts.push_back(positions.num_rows);
  return cuts;
}

std::int64_t count_members(const std::uint8_t* is_member, std::int64_t first, std::int64_t last) {
  std::int64_t count = 0;
  for (std::int64_t begin = first; begin < last; begin += 255 * 16) {
    const std::int64_t end = std::min(last, begin + 255 * 16);
    std::uint32_t sum = 0;
    for (std::int64_t entry = begin; entry < end; ++entry) sum += is_member[entry] != 0 ? 1U : 0U;
    count += sum;
  }
  return count;
}

}  // namespace itop
