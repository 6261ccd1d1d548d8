#include "itop/compressed_set.hpp"

#include <algorithm>
#include <cstring>
#include <stdexcept>
#include <string>

#include "compressed_stretches.hpp"
#include "itop/thread_pool.hpp"

namespace itop {
namespace {

constexpr std::int64_t kMostStretches = 1024;  // of a group
constexpr std::int64_t kManyGroups = 64;       // enough to share among threads
constexpr std::int64_t kManyMembers = 512;     // new in a stretch: from here on its bits are worth their zeroing

std::int64_t divide_up(std::int64_t a, std::int64_t b) { return (a + b - 1) / b; }

/// Calls `body(position)` for every position from `first` to before `last`, ascending.
template <class Body>
void for_each_position(const PositionList& positions, std::int64_t first, std::int64_t last, Body&& body) {
  if (positions.num_columns == 0) return;
  for (std::int64_t row = first / positions.num_columns; row < positions.num_rows; ++row) {
    const std::int64_t start = row * positions.num_columns;
    if (start >= last) return;
    const std::int32_t* entry = positions.columns + positions.row_pointers[row];
    const std::int32_t* const end = positions.columns + positions.row_pointers[row + 1];
    if (start < first) entry = std::lower_bound(entry, end, first - start);
    for (; entry < end && start + *entry < last; ++entry) body(start + *entry);
  }
}

/// How many positions the rows hold that have elements in [first, last): a bound of those in that range.
std::int64_t num_in_rows_of(const PositionList& positions, std::int64_t first, std::int64_t last) {
  if (positions.num_columns == 0) return 0;
  const std::int64_t first_row = std::min(positions.num_rows, first / positions.num_columns);
  const std::int64_t last_row = std::min(positions.num_rows, divide_up(last, positions.num_columns));
  return positions.row_pointers[last_row] - positions.row_pointers[first_row];
}

void check_numel(const PositionList& positions, std::int64_t numel) {
  if (positions.num_rows * positions.num_columns != numel) {
    throw std::invalid_argument("a set over " + std::to_string(numel) + " indices takes no positions of a " +
                                std::to_string(positions.num_rows) + "x" + std::to_string(positions.num_columns) +
                                " matrix");
  }
}

}  // namespace

CompressedSet::CompressedSet(std::int64_t numel) : numel_(numel) {
  if (numel < 0) throw std::invalid_argument("numel must not be negative, got " + std::to_string(numel));
  const std::int64_t num_stretches = divide_up(numel, kStretch);
  group_stretches_ = std::clamp<std::int64_t>(num_stretches / kManyGroups, 1, kMostStretches);
  groups_.resize(static_cast<std::size_t>(divide_up(num_stretches, group_stretches_)));
}

std::size_t CompressedSet::num_bytes() const noexcept {
  std::size_t bytes = groups_.size() * sizeof(Group);
  for (const Group& group : groups_) {
    bytes += group.stretches.capacity() * sizeof(std::uint32_t) + group.words.capacity() * sizeof(std::uint16_t);
  }
  return bytes;
}

/// One by one: memory and time of the members, however few there are.
void CompressedSet::merge_few(const Group& group, std::int64_t first, const PositionList& positions,
                              Builder& builder) const {
  Cursor old(group);
  std::vector<std::uint16_t> offsets;  // of the stretch `current`
  std::int64_t current = 0;
  const auto flush = [&] {
    if (offsets.empty()) return;
    for (; old.is_valid() && old.number() < current; old.advance()) {
      builder.copy(old.number(), old.count(), old.words());
    }
    if (old.is_valid() && old.number() == current) {
      builder.unite(old, offsets);
      old.advance();
    } else {
      builder.add(current, offsets);
    }
    offsets.clear();
  };
  for_each_position(positions, first, first + group_stretches_ * kStretch, [&](std::int64_t position) {
    const std::int64_t number = (position - first) / kStretch;
    if (number != current) flush();
    current = number;
    offsets.push_back(static_cast<std::uint16_t>(position % kStretch));
  });
  flush();
  for (; old.is_valid(); old.advance()) builder.copy(old.number(), old.count(), old.words());
}

/// Through a stretch's bits, which lie in the first-level cache.
void CompressedSet::merge_many(const Group& group, std::int64_t first, const PositionList& positions,
                               Builder& builder) const {
  Cursor old(group);
  StretchBits bits;
  const auto set = [&](std::int64_t offset) { bits[offset / kWordBits] |= Word{1} << (offset % kWordBits); };
  for (std::int64_t number = 0; number < group_stretches_; ++number) {
    bits.fill(0);
    if (old.is_valid() && old.number() == number) {
      if (is_bitmap(old.count())) {
        std::memcpy(bits.data(), old.words(), sizeof(bits));
      } else {
        for_each_offset(old.words(), old.count(), set);
      }
      old.advance();
    }
    const std::int64_t start = first + number * kStretch;
    for_each_position(positions, start, start + kStretch, [&](std::int64_t position) { set(position - start); });
    builder.add(number, bits);
  }
}

/// In place, where every stretch is a bitmap already.
void CompressedSet::set_bits(Group& group, std::int64_t first, const PositionList& positions) {
  group.count = 0;
  for (std::size_t i = 0; i < group.stretches.size(); ++i) {
    std::uint16_t* const words = group.words.data() + i * kBitmapWords;
    const std::int64_t start = first + static_cast<std::int64_t>(i) * kStretch;
    for_each_position(positions, start, start + kStretch, [&](std::int64_t position) {
      const auto offset = static_cast<std::uint16_t>(position - start);
      words[offset / 16] |= bit_of(offset);
    });
    StretchBits bits;
    std::memcpy(bits.data(), words, sizeof(bits));
    const auto count = static_cast<std::uint32_t>(cpu::kernels().count(bits.data(), std::ssize(bits)));
    group.stretches[i] = (static_cast<std::uint32_t>(i) << kCountBits) | count;
    group.count += count;
  }
}

void CompressedSet::insert_into(Group& group, std::int64_t first, const PositionList& positions) const {
  const std::int64_t last = std::min(numel_, first + group_stretches_ * kStretch);
  const std::int64_t at_most = num_in_rows_of(positions, first, last);
  if (at_most == 0) return;
  const bool are_bitmaps = std::ssize(group.stretches) == divide_up(last - first, kStretch) &&
                           std::all_of(group.stretches.begin(), group.stretches.end(),
                                       [](std::uint32_t stretch) { return is_bitmap(stretch & kCountMask); });
  if (are_bitmaps) return set_bits(group, first, positions);
  Builder builder;
  if (at_most > kManyMembers * group_stretches_) {
    merge_many(group, first, positions, builder);
  } else {
    merge_few(group, first, positions, builder);
  }
  group = builder.finish();
}

std::int64_t CompressedSet::insert(const PositionList& positions, ThreadPool& pool) {
  check_numel(positions, numel_);
  pool.parallel_for(std::ssize(groups_), [&](std::int64_t number) {
    insert_into(groups_[static_cast<std::size_t>(number)], number * group_stretches_ * kStretch, positions);
  });
  const std::int64_t before = count_;
  count_ = 0;
  for (const Group& group : groups_) count_ += group.count;
  return count_ - before;
}

bool CompressedSet::contains(const Group& group, std::int64_t first, const PositionList& positions) const {
  Cursor cursor(group);
  bool all = true;
  for_each_position(positions, first, first + group_stretches_ * kStretch, [&](std::int64_t position) {
    const std::int64_t number = (position - first) / kStretch;
    while (cursor.is_valid() && cursor.number() < number) cursor.advance();
    if (!cursor.is_valid() || cursor.number() != number) {
      all = false;
      return;
    }
    const auto offset = static_cast<std::uint16_t>(position % kStretch);
    const std::uint16_t* const words = cursor.words();
    all = all && (is_bitmap(cursor.count()) ? (words[offset / 16] & bit_of(offset)) != 0
                                            : std::binary_search(words, words + cursor.count(), offset));
  });
  return all;
}

bool CompressedSet::contains_all(const PositionList& positions) const {
  check_numel(positions, numel_);
  for (std::size_t number = 0; number < groups_.size(); ++number) {
    const std::int64_t first = static_cast<std::int64_t>(number) * group_stretches_ * kStretch;
    if (!contains(groups_[number], first, positions)) return false;
  }
  return true;
}

Positions CompressedSet::to_positions(std::int64_t num_columns, ThreadPool& pool) const {
  const std::int64_t num_rows = num_columns == 0 ? 0 : numel_ / num_columns;
  if (num_rows * num_columns != numel_) {
    throw std::invalid_argument("rows of " + std::to_string(num_columns) + " do not divide " + std::to_string(numel_));
  }
  Positions result{num_rows, num_columns, ScratchArray<std::int64_t>(static_cast<std::size_t>(num_rows) + 1),
                   ScratchArray<std::int32_t>(static_cast<std::size_t>(count_))};
  std::fill(result.row_pointers.begin(), result.row_pointers.end(), count_);
  std::vector<std::int64_t> before(groups_.size(), 0);
  for (std::size_t number = 1; number < groups_.size(); ++number) {
    before[number] = before[number - 1] + groups_[number - 1].count;
  }
  // A group writes its members' columns and the pointers of the rows that begin inside it.
  pool.parallel_for(static_cast<std::int64_t>(groups_.size()), [&](std::int64_t number) {
    const std::int64_t first = number * group_stretches_ * kStretch;
    const std::int64_t last = std::min(numel_, first + group_stretches_ * kStretch);
    std::int64_t written = before[static_cast<std::size_t>(number)];
    std::int64_t next_row = (first + num_columns - 1) / num_columns;
    for (Cursor stretch(groups_[static_cast<std::size_t>(number)]); stretch.is_valid(); stretch.advance()) {
      const std::int64_t start = first + stretch.number() * kStretch;
      for_each_offset(stretch.words(), stretch.count(), [&](std::int64_t offset) {
        const std::int64_t position = start + offset;
        for (; next_row * num_columns <= position; ++next_row) {
          result.row_pointers[static_cast<std::size_t>(next_row)] = written;
        }
        const std::int64_t column = position - (next_row - 1) * num_columns;
        result.columns[static_cast<std::size_t>(written++)] = static_cast<std::int32_t>(column);
      });
    }
    for (; next_row * num_columns < last; ++next_row) {
      result.row_pointers[static_cast<std::size_t>(next_row)] = written;
    }
  });
  return result;
}

}  // namespace itop
