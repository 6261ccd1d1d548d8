#include "itop/position_set.hpp"

#include <algorithm>
#include <bit>
#include <cstring>
#include <limits>
#include <stdexcept>
#include <string>

#include "itop/thread_pool.hpp"

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
  Positions result{num_rows, num_columns, {}, {}};
  result.row_pointers.assign(static_cast<std::size_t>(num_rows) + 1, 0);
  const std::int64_t num_chunks = (num_rows + kRowsPerChunk - 1) / kRowsPerChunk;
  std::vector<std::vector<std::int32_t>> parts(static_cast<std::size_t>(num_chunks));
  pool.parallel_for(num_chunks, [&](std::int64_t chunk) {
    const std::int64_t first = chunk * kRowsPerChunk;
    const std::int64_t last = std::min(num_rows, first + kRowsPerChunk);
    std::int64_t room = 0;
    for (std::int64_t row = first; row < last; ++row) room += at_most(row);
    std::vector<std::int32_t>& part = parts[static_cast<std::size_t>(chunk)];
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
  result.columns.resize(static_cast<std::size_t>(result.row_pointers.back()));
  pool.parallel_for(num_chunks, [&](std::int64_t chunk) {
    std::vector<std::int32_t>& part = parts[static_cast<std::size_t>(chunk)];
    const auto start = result.row_pointers[static_cast<std::size_t>(chunk * kRowsPerChunk)];
    std::copy(part.begin(), part.end(), result.columns.begin() + start);
    std::vector<std::int32_t>().swap(part);
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
  const auto at_most = [&](std::int64_t row) { return all.row_pointers[row + 1] - all.row_pointers[row]; };
  return make_rows(all.num_rows, all.num_columns, pool, at_most, [&](std::int64_t row, std::int32_t* out) {
    for (std::int64_t entry = all.row_pointers[row]; entry < all.row_pointers[row + 1]; ++entry) {
      if (is_member[entry] != 0) *out++ = all.columns[entry];
    }
    return out;
  });
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

// --- the compressed set ----------------------------------------------------------------------------------------------

namespace {

/// Calls `body(position)` for every position in ascending order.
template <class Body>
void for_each_position(const PositionList& positions, Body&& body) {
  for (std::int64_t row = 0; row < positions.num_rows; ++row) {
    const std::int64_t start = row * positions.num_columns;
    for (std::int64_t entry = positions.row_pointers[row]; entry < positions.row_pointers[row + 1]; ++entry) {
      body(start + positions.columns[entry]);
    }
  }
}

void check_numel(const PositionList& positions, std::int64_t numel) {
  if (positions.num_rows * positions.num_columns != numel) {
    throw std::invalid_argument("a set over " + std::to_string(numel) + " indices takes no positions of a " +
                                std::to_string(positions.num_rows) + "x" + std::to_string(positions.num_columns) +
                                " matrix");
  }
}

std::uint16_t bit_of(std::uint16_t offset) { return static_cast<std::uint16_t>(1U << (offset % 16)); }

}  // namespace

CompressedSet::CompressedSet(std::int64_t numel) : numel_(numel) {
  if (numel < 0) throw std::invalid_argument("numel must not be negative, got " + std::to_string(numel));
  stretches_.resize(static_cast<std::size_t>((numel + kStretch - 1) / kStretch));
}

std::size_t CompressedSet::num_bytes() const noexcept {
  std::size_t bytes = stretches_.size() * sizeof(Stretch);
  for (const Stretch& stretch : stretches_) bytes += stretch.words.capacity() * sizeof(std::uint16_t);
  return bytes;
}

bool CompressedSet::Stretch::contains(std::uint16_t offset) const noexcept {
  if (is_bitmap()) return (words[offset / 16] & bit_of(offset)) != 0;
  return std::binary_search(words.begin(), words.end(), offset);
}

void CompressedSet::merge(Stretch& stretch, const std::vector<std::uint16_t>& offsets,
                          std::vector<std::uint16_t>& scratch) {
  const std::uint32_t before = stretch.count;
  if (!stretch.is_bitmap()) {
    scratch.clear();
    std::set_union(stretch.words.begin(), stretch.words.end(), offsets.begin(), offsets.end(),
                   std::back_inserter(scratch));
    stretch.count = static_cast<std::uint32_t>(scratch.size());
    if (!stretch.is_bitmap()) {
      stretch.words = scratch;  // exactly as long as it must be
    } else {
      stretch.words.assign(kBitmapWords, 0);
      for (const std::uint16_t offset : scratch) stretch.words[offset / 16] |= bit_of(offset);
    }
  } else {
    for (const std::uint16_t offset : offsets) {
      std::uint16_t& word = stretch.words[offset / 16];
      stretch.count += (word & bit_of(offset)) == 0 ? 1U : 0U;
      word |= bit_of(offset);
    }
  }
  count_ += stretch.count - before;
}

std::int64_t CompressedSet::insert(const PositionList& positions) {
  check_numel(positions, numel_);
  const std::int64_t before = count_;
  std::vector<std::uint16_t> offsets;
  std::vector<std::uint16_t> scratch;
  std::int64_t current = 0;
  const auto flush = [&] {
    if (!offsets.empty()) merge(stretches_[static_cast<std::size_t>(current)], offsets, scratch);
    offsets.clear();
  };
  for_each_position(positions, [&](std::int64_t position) {
    if (position / kStretch != current) {
      flush();
      current = position / kStretch;
    }
    offsets.push_back(static_cast<std::uint16_t>(position % kStretch));
  });
  flush();
  return count_ - before;
}

bool CompressedSet::contains_all(const PositionList& positions) const {
  check_numel(positions, numel_);
  bool contains = true;
  for_each_position(positions, [&](std::int64_t position) {
    contains = contains && stretches_[static_cast<std::size_t>(position / kStretch)].contains(
                               static_cast<std::uint16_t>(position % kStretch));
  });
  return contains;
}

Positions CompressedSet::to_positions(std::int64_t num_columns) const {
  const std::int64_t num_rows = num_columns == 0 ? 0 : numel_ / num_columns;
  if (num_rows * num_columns != numel_) {
    throw std::invalid_argument("rows of " + std::to_string(num_columns) + " do not divide " + std::to_string(numel_));
  }
  Positions result{num_rows, num_columns, {}, {}};
  result.row_pointers.assign(static_cast<std::size_t>(num_rows) + 1, 0);
  result.columns.reserve(static_cast<std::size_t>(count_));
  std::int64_t row = 0;
  std::int64_t row_start = 0;
  const auto add = [&](std::int64_t position) {
    while (position >= row_start + num_columns) {
      result.row_pointers[static_cast<std::size_t>(++row)] = static_cast<std::int64_t>(result.columns.size());
      row_start += num_columns;
    }
    result.columns.push_back(static_cast<std::int32_t>(position - row_start));
  };
  for (std::size_t i = 0; i < stretches_.size(); ++i) {
    const Stretch& stretch = stretches_[i];
    const auto start = static_cast<std::int64_t>(i) * kStretch;
    if (!stretch.is_bitmap()) {
      for (const std::uint16_t offset : stretch.words) add(start + offset);
      continue;
    }
    for (std::size_t word = 0; word < kBitmapWords; ++word) {
      for (unsigned left = stretch.words[word]; left != 0; left &= left - 1) {
        add(start + static_cast<std::int64_t>(word) * 16 + std::countr_zero(left));
      }
    }
  }
  while (row < num_rows) {
    result.row_pointers[static_cast<std::size_t>(++row)] = static_cast<std::int64_t>(result.columns.size());
  }
  return result;
}

std::vector<std::uint8_t> CompressedSet::to_bytes() const {
  static_assert(std::endian::native == std::endian::little, "bytes are written as they lie in memory");
  std::size_t num_words = 0;
  for (const Stretch& stretch : stretches_) num_words += stretch.words.size();
  std::vector<std::uint8_t> bytes(stretches_.size() * sizeof(std::uint32_t) + num_words * sizeof(std::uint16_t));
  std::uint8_t* counts = bytes.data();
  std::uint8_t* contents = counts + stretches_.size() * sizeof(std::uint32_t);
  for (const Stretch& stretch : stretches_) {
    std::memcpy(counts, &stretch.count, sizeof(stretch.count));
    counts += sizeof(stretch.count);
    const std::size_t size = stretch.words.size() * sizeof(std::uint16_t);
    if (size > 0) std::memcpy(contents, stretch.words.data(), size);
    contents += size;
  }
  return bytes;
}

CompressedSet CompressedSet::from_bytes(std::int64_t numel, const std::uint8_t* bytes, std::size_t num_bytes) {
  const auto refuse = [](const char* why) {
    throw std::invalid_argument(std::string("the bytes are no set of positions: ") + why);
  };
  CompressedSet set(numel);
  const std::size_t header = set.stretches_.size() * sizeof(std::uint32_t);
  if (num_bytes < header) refuse("they are too few");
  std::size_t at = header;
  for (std::size_t i = 0; i < set.stretches_.size(); ++i) {
    Stretch& stretch = set.stretches_[i];
    std::memcpy(&stretch.count, bytes + i * sizeof(std::uint32_t), sizeof(stretch.count));
    const std::int64_t length = std::min(kStretch, numel - static_cast<std::int64_t>(i) * kStretch);
    if (stretch.count > static_cast<std::uint64_t>(length)) refuse("a count is too large");
    stretch.words.resize(stretch.is_bitmap() ? kBitmapWords : stretch.count);
    const std::size_t size = stretch.words.size() * sizeof(std::uint16_t);
    if (num_bytes - at < size) refuse("they are too few");
    if (size > 0) std::memcpy(stretch.words.data(), bytes + at, size);
    at += size;
    std::int64_t last = -1;
    if (stretch.is_bitmap()) {
      std::uint32_t count = 0;
      for (std::size_t word = 0; word < kBitmapWords; ++word) {
        count += static_cast<std::uint32_t>(std::popcount(stretch.words[word]));
        if (stretch.words[word] != 0) {
          last = static_cast<std::int64_t>(word) * 16 + std::bit_width(stretch.words[word]) - 1;
        }
      }
      if (count != stretch.count) refuse("a count is wrong");
    } else {
      for (const std::uint16_t offset : stretch.words) {
        if (offset <= last) refuse("offsets do not ascend");
        last = offset;
      }
    }
    if (last >= length) refuse("an index is out of range");
    set.count_ += stretch.count;
  }
  if (at != num_bytes) refuse("they are too many");
  return set;
}

}  // namespace itop
