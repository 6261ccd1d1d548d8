#include "itop/position_set.hpp"

#include <algorithm>
#include <atomic>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "itop/thread_pool.hpp"
#include "row_ranges.hpp"

namespace itop {
namespace {

constexpr std::int64_t kRowsPerChunk = 256;

void check_same_shape(const PositionList& a, const PositionList& b) {
  if (a.num_rows == b.num_rows && a.num_columns == b.num_columns) return;
  const auto shape = [](const PositionList& list) {
    return std::to_string(list.num_rows) + "x" + std::to_string(list.num_columns);
  };
  throw std::invalid_argument("sets of positions must be of one matrix, got " + shape(a) + " and " + shape(b));
}

struct Row {
  const std::int32_t* begin;
  const std::int32_t* end;

  Row(const PositionList& list, std::int64_t row)
      : begin(list.columns + list.row_pointers[row]), end(list.columns + list.row_pointers[row + 1]) {}
};

/// Makes a set row by row: `write_row(row, out)` writes the columns of a row and returns the end, `at_most(row)` is
/// room enough for it.
template <class AtMost, class WriteRow>
Positions make_rows(std::int64_t num_rows, std::int64_t num_columns, ThreadPool& pool, AtMost&& at_most,
                    WriteRow&& write_row) {
  Positions result{num_rows, num_columns, ScratchArray<std::int64_t>(static_cast<std::size_t>(num_rows) + 1), {}};
  result.row_pointers[0] = 0;
  const std::int64_t num_chunks = (num_rows + kRowsPerChunk - 1) / kRowsPerChunk;
  std::vector<ScratchArray<std::int32_t>> parts(static_cast<std::size_t>(num_chunks));
  pool.parallel_for(num_chunks, [&](std::int64_t chunk) {
    const std::int64_t first = chunk * kRowsPerChunk;
    const std::int64_t last = std::min(num_rows, first + kRowsPerChunk);
    std::int64_t room = 0;
    for (std::int64_t row = first; row < last; ++row) room += at_most(row);
    ScratchArray<std::int32_t>& part = parts[static_cast<std::size_t>(chunk)];
    part.resize(static_cast<std::size_t>(room));
    std::int32_t* out = part.data();
    for (std::int64_t row = first; row < last; ++row) {
      std::int32_t* const end = write_row(row, out);
      result.row_pointers[static_cast<std::size_t>(row) + 1] = end - out;
      out = end;
    }
    part.resize(static_cast<std::size_t>(out - part.data()));
  });
  for (std::size_t row = 0; row < static_cast<std::size_t>(num_rows); ++row) {
    result.row_pointers[row + 1] += result.row_pointers[row];
  }
  result.columns = ScratchArray<std::int32_t>(static_cast<std::size_t>(result.row_pointers.back()));
  pool.parallel_for(num_chunks, [&](std::int64_t chunk) {
    const ScratchArray<std::int32_t>& part = parts[static_cast<std::size_t>(chunk)];
    const auto start = result.row_pointers[static_cast<std::size_t>(chunk * kRowsPerChunk)];
    std::copy(part.begin(), part.end(), result.columns.begin() + start);
  });
  return result;
}

}  // namespace

Positions combine(const PositionList& a, const PositionList& b, SetOperation operation, ThreadPool& pool) {
  check_same_shape(a, b);
  const auto at_most = [&](std::int64_t row) {
    const Row of_a(a, row);
    const Row of_b(b, row);
    return (of_a.end - of_a.begin) + (operation == SetOperation::kUnion ? of_b.end - of_b.begin : 0);
  };
  return make_rows(a.num_rows, a.num_columns, pool, at_most, [&](std::int64_t row, std::int32_t* out) {
    const Row of_a(a, row);
    const Row of_b(b, row);
    switch (operation) {
      case SetOperation::kUnion:
        return std::set_union(of_a.begin, of_a.end, of_b.begin, of_b.end, out);
      case SetOperation::kIntersection:
        return std::set_intersection(of_a.begin, of_a.end, of_b.begin, of_b.end, out);
      case SetOperation::kDifference:
        return std::set_difference(of_a.begin, of_a.end, of_b.begin, of_b.end, out);
    }
    return out;
  });
}

Positions filter(const PositionList& all, const std::uint8_t* is_member, ThreadPool& pool) {
  const std::vector<std::int64_t> cuts = cut_rows(all, pool.num_threads());
  const auto num_ranges = static_cast<std::int64_t>(cuts.size()) - 1;
  std::vector<std::int64_t> first(cuts.size(), 0);  // of a range in the result
  pool.parallel_for(num_ranges, [&](std::int64_t range) {
    first[static_cast<std::size_t>(range)] =
        count_members(is_member, all.row_pointers[cuts[static_cast<std::size_t>(range)]],
                      all.row_pointers[cuts[static_cast<std::size_t>(range) + 1]]);
  });
  std::int64_t total = 0;
  for (std::int64_t& start : first) total += std::exchange(start, total);
  Positions result{all.num_rows, all.num_columns,
                   ScratchArray<std::int64_t>(static_cast<std::size_t>(all.num_rows) + 1),
                   ScratchArray<std::int32_t>(static_cast<std::size_t>(total))};
  result.row_pointers[0] = 0;
  pool.parallel_for(num_ranges, [&](std::int64_t range) {
    std::int64_t written = first[static_cast<std::size_t>(range)];
    const std::int64_t last_written = first[static_cast<std::size_t>(range) + 1];
    std::int32_t* const columns = result.columns.data();
    for (std::int64_t row = cuts[static_cast<std::size_t>(range)]; row < cuts[static_cast<std::size_t>(range) + 1];
         ++row) {
      // Written before it is known whether it is wanted, which no branch could foresee; never past the range's own.
      const std::int64_t end = all.row_pointers[row + 1];
      for (std::int64_t entry = all.row_pointers[row]; entry < end && written < last_written; ++entry) {
        columns[written] = all.columns[entry];
        written += is_member[entry] != 0 ? 1 : 0;
      }
      result.row_pointers[static_cast<std::size_t>(row) + 1] = written;
    }
  });
  return result;
}

Positions positions_of(std::int64_t num_rows, std::int64_t num_columns, const std::int64_t* indices, std::int64_t count,
                       ThreadPool& pool) {
  Positions result{num_rows, num_columns, ScratchArray<std::int64_t>(static_cast<std::size_t>(num_rows) + 1),
                   ScratchArray<std::int32_t>(static_cast<std::size_t>(count))};
  result.row_pointers[0] = 0;
  const std::int64_t numel = num_rows * num_columns;
  std::atomic<bool> ascends{count == 0 || (indices[0] >= 0 && indices[count - 1] < numel)};
  constexpr std::int64_t kIndicesPerChunk = 65536;
  pool.parallel_for((count + kIndicesPerChunk - 1) / kIndicesPerChunk, [&](std::int64_t chunk) {
    const std::int64_t last = std::min(count, (chunk + 1) * kIndicesPerChunk);
    bool chunk_ascends = true;
    for (std::int64_t i = std::max<std::int64_t>(1, chunk * kIndicesPerChunk); i < last; ++i) {
      chunk_ascends &= indices[i] > indices[i - 1];
    }
    if (!chunk_ascends) ascends = false;
  });
  if (!ascends) throw std::invalid_argument("indices must ascend within [0, " + std::to_string(numel) + ")");
  pool.parallel_for((num_rows + kRowsPerChunk - 1) / kRowsPerChunk, [&](std::int64_t chunk) {
    const std::int64_t last = std::min(num_rows, (chunk + 1) * kRowsPerChunk);
    std::int64_t row = chunk * kRowsPerChunk;
    std::int64_t i = std::lower_bound(indices, indices + count, row * num_columns) - indices;
    for (; row < last; ++row) {
      const std::int64_t row_start = row * num_columns;
      for (; i < count && indices[i] < row_start + num_columns; ++i) {
        result.columns[static_cast<std::size_t>(i)] = static_cast<std::int32_t>(indices[i] - row_start);
      }
      result.row_pointers[static_cast<std::size_t>(row) + 1] = i;
    }
  });
  return result;
}

void find_members(const PositionList& all, const PositionList& set, std::uint8_t* is_member, ThreadPool& pool) {
  check_same_shape(all, set);
  const std::int64_t num_chunks = (all.num_rows + kRowsPerChunk - 1) / kRowsPerChunk;
  pool.parallel_for(num_chunks, [&](std::int64_t chunk) {
    const std::int64_t last = std::min(all.num_rows, (chunk + 1) * kRowsPerChunk);
    for (std::int64_t row = chunk * kRowsPerChunk; row < last; ++row) {
      const Row members(set, row);
      const std::int32_t* member = members.begin;
      for (std::int64_t entry = all.row_pointers[row]; entry < all.row_pointers[row + 1]; ++entry) {
        while (member < members.end && *member < all.columns[entry]) ++member;
        is_member[entry] = member < members.end && *member == all.columns[entry] ? 1 : 0;
      }
    }
  });
}

}  // namespace itop
