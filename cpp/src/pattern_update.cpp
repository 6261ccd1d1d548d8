#include <algorithm>
#include <cstring>
#include <limits>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "itop/sparse_growth.hpp"
#include "itop/thread_pool.hpp"
#include "row_ranges.hpp"

namespace itop {
namespace {

/// Some rows of an update: the old entries and grown positions they take, and where their new entries begin.
struct RowRange {
  std::int64_t first_row = 0;
  std::int64_t last_row = 0;
  std::int64_t first_grown = 0;
  std::int64_t last_grown = 0;
  std::int64_t written = 0;      ///< before the range; counted first, then summed up
  std::int64_t num_regrown = 0;  ///< dropped and grown
};

void check_grown(const PositionList& pattern, const std::int64_t* grown, std::int64_t first, std::int64_t last) {
  const std::int64_t numel = pattern.num_rows * pattern.num_columns;
  bool ascends = true;
  for (std::int64_t i = first; i < last; ++i) {
    ascends &= grown[i] >= 0 && grown[i] < numel && (i == 0 || grown[i] > grown[i - 1]);
  }
  if (ascends) return;
  for (std::int64_t i = first; i < last; ++i) {
    if (grown[i] >= 0 && grown[i] < numel && (i == 0 || grown[i] > grown[i - 1])) continue;
    throw std::invalid_argument("grown positions must ascend within the matrix, position " + std::to_string(i) +
                                " is " + std::to_string(grown[i]));
  }
}

/// Old entries and grown positions of a range in one merge without branches: which comes next is random.
template <bool kRegrownKeepsValue>
void merge_rows(const PositionList& pattern, const std::uint8_t* keep, const std::int64_t* grown,
                std::int64_t last_written, RowRange& range, UpdatedPattern& result) {
  const std::int32_t* const old_columns = pattern.columns;
  std::int32_t* const columns = result.columns.data();
  std::int32_t* const sources = result.sources.data();
  std::int64_t written = range.written;
  std::int64_t next = range.first_grown;
  std::int64_t num_regrown = 0;
  for (std::int64_t row = range.first_row; row < range.last_row; ++row) {
    const std::int64_t row_start = row * pattern.num_columns;
    const std::int64_t end = pattern.row_pointers[row + 1];
    const std::int64_t last_grown =
        std::lower_bound(grown + next, grown + range.last_grown, row_start + pattern.num_columns) - grown;
    std::int64_t entry = pattern.row_pointers[row];
    num_regrown += end - entry + last_grown - next;  // less those that come one by one
    const auto take_one = [&](std::int32_t old_column, std::int32_t new_column) __attribute__((always_inline)) {
      const std::int32_t distance = old_column - new_column;
      // All ones where the next old entry, where the next grown position comes first; both where they are one.
      const std::int64_t takes_old = (distance - 1) >> 31;
      const std::int64_t takes_grown = ~(distance >> 31);
      columns[written] = new_column + (distance & static_cast<std::int32_t>(takes_old));
      sources[written] =
          static_cast<std::int32_t>(entry | (kRegrownKeepsValue ? takes_grown & ~takes_old : takes_grown));
      written += (takes_grown | keep[entry]) & 1;
      entry -= takes_old;
      next -= takes_grown;
      --num_regrown;
      return std::pair(takes_old, takes_grown);
    };
    if (entry < end && next < last_grown) {
      // Those behind the next two are read before it is known which of these comes first: nothing waits for memory.
      auto old_column = old_columns[entry];
      auto new_column = static_cast<std::int32_t>(grown[next] - row_start);
      while (entry + 1 < end && next + 1 < last_grown) {
        const std::int32_t old_behind = old_columns[entry + 1];
        const auto new_behind = static_cast<std::int32_t>(grown[next + 1] - row_start);
        const auto [takes_old, takes_grown] = take_one(old_column, new_column);
        old_column ^= (old_column ^ old_behind) & static_cast<std::int32_t>(takes_old);
        new_column ^= (new_column ^ new_behind) & static_cast<std::int32_t>(takes_grown);
      }
    }
    while (entry < end && next < last_grown) {
      take_one(old_columns[entry], static_cast<std::int32_t>(grown[next] - row_start));
    }
    num_regrown -= end - entry + last_grown - next;
    for (; next < last_grown; ++next, ++written) {
      columns[written] = static_cast<std::int32_t>(grown[next] - row_start);
      sources[written] = -1;
    }
    for (; entry < end && written < last_written; ++entry) {
      columns[written] = old_columns[entry];
      sources[written] = static_cast<std::int32_t>(entry);
      written += keep[entry];
    }
    result.row_pointers[static_cast<std::size_t>(row) + 1] = written;
  }
  // What is kept and grown was counted twice.
  if (written != last_written) {
    throw std::invalid_argument("a grown position of the rows " + std::to_string(range.first_row) + " to " +
                                std::to_string(range.last_row - 1) + " is active and kept, it cannot be grown");
  }
  range.num_regrown = num_regrown;
}

}  // namespace

UpdatedPattern update_pattern(const PositionList& pattern, const std::uint8_t* keep, const std::int64_t* grown,
                              std::int64_t num_grown, bool regrown_keeps_value, ThreadPool& pool) {
  if (pattern.count() + num_grown > std::numeric_limits<std::int32_t>::max()) {
    throw std::invalid_argument("a layer holds fewer than 2^31 active weights");
  }
  const std::vector<std::int64_t> cuts = cut_rows(pattern, pool.num_threads());
  std::vector<RowRange> ranges(cuts.size() - 1);
  const auto num_ranges = static_cast<std::int64_t>(ranges.size());
  for (std::size_t i = 0; i < ranges.size(); ++i) {
    ranges[i].first_row = cuts[i];
    ranges[i].last_row = cuts[i + 1];
    ranges[i].first_grown = i == 0 ? 0 : ranges[i - 1].last_grown;
    ranges[i].last_grown = i + 1 == ranges.size() ? num_grown
                                                  : std::lower_bound(grown + ranges[i].first_grown, grown + num_grown,
                                                                     cuts[i + 1] * pattern.num_columns) -
                                                        grown;
  }
  pool.parallel_for(num_ranges, [&](std::int64_t i) {
    RowRange& range = ranges[static_cast<std::size_t>(i)];
    check_grown(pattern, grown, range.first_grown, range.last_grown);
    range.written = count_members(keep, pattern.row_pointers[range.first_row], pattern.row_pointers[range.last_row]) +
                    range.last_grown - range.first_grown;
  });
  // Memory is asked for once it is known that positions ascend; a kept one among them shows while they are merged, and
  // takes no room of another range before.
  std::int64_t num_new = 0;
  for (RowRange& range : ranges) num_new += std::exchange(range.written, num_new);
  UpdatedPattern result;
  result.row_pointers = ScratchArray<std::int64_t>(static_cast<std::size_t>(pattern.num_rows) + 1);
  result.columns = ScratchArray<std::int32_t>(static_cast<std::size_t>(num_new));
  result.sources = ScratchArray<std::int32_t>(static_cast<std::size_t>(num_new));
  result.row_pointers[0] = 0;
  const auto merge = regrown_keeps_value ? merge_rows<true> : merge_rows<false>;
  pool.parallel_for(num_ranges, [&](std::int64_t i) {
    const auto range = static_cast<std::size_t>(i);
    merge(pattern, keep, grown, i + 1 == num_ranges ? num_new : ranges[range + 1].written, ranges[range], result);
  });
  for (const RowRange& range : ranges) result.num_regrown += range.num_regrown;
  return result;
}

namespace {

template <class Element>  // an unsigned integer
void carry(const void* from, const std::int32_t* sources, std::int64_t count, void* to, ThreadPool& pool) {
  constexpr std::int64_t kPerChunk = 32768;
  const auto* const old = static_cast<const Element*>(from);
  auto* const out = static_cast<Element*>(to);
  pool.parallel_for((count + kPerChunk - 1) / kPerChunk, [&](std::int64_t chunk) {
    const std::int64_t last = std::min(count, (chunk + 1) * kPerChunk);
    for (std::int64_t i = chunk * kPerChunk; i < last; ++i) {
      // No branch could foresee which weights were grown.
      const std::int32_t is_old = ~(sources[i] >> 31);
      out[i] = old[sources[i] & is_old] & static_cast<Element>(static_cast<std::int64_t>(is_old));
    }
  });
}

}  // namespace

void carry_values(const void* from, const std::int32_t* sources, std::int64_t count, std::size_t element_size, void* to,
                  ThreadPool& pool) {
  if (from == nullptr) {  // an empty layer had no values
    std::memset(to, 0, static_cast<std::size_t>(count) * element_size);
    return;
  }
  switch (element_size) {
    case 2:
      return carry<std::uint16_t>(from, sources, count, to, pool);
    case 4:
      return carry<std::uint32_t>(from, sources, count, to, pool);
    case 8:
      return carry<std::uint64_t>(from, sources, count, to, pool);
    default:
      throw std::invalid_argument("values have 2, 4 or 8 bytes, got " + std::to_string(element_size));
  }
}

}  // namespace itop
