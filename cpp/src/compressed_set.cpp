#include "itop/compressed_set.hpp"

#include <algorithm>
#include <array>
#include <bit>
#include <cstring>
#include <iterator>
#include <stdexcept>
#include <string>

#include "cpu/kernels.hpp"
#include "itop/thread_pool.hpp"

namespace itop {
namespace {

constexpr std::int64_t kStretch = 65536;
constexpr std::int64_t kMostStretches = 1024;  // of a group
constexpr std::int64_t kManyGroups = 64;       // enough to share among threads
constexpr int kCountBits = 17;                 // a full stretch has 65536 members
constexpr std::uint32_t kCountMask = (1U << kCountBits) - 1;
constexpr std::size_t kBitmapWords = 4096;  // of 16 bits; also the longest list of offsets in saved bytes
// The longest in memory: the bits take at most twice its room, and to add to them takes a third of the time.
constexpr std::size_t kMostListed = 2048;
constexpr std::int64_t kManyMembers = 512;  // new in a stretch: from here on its bits are worth their zeroing

using StretchBits = std::array<Word, kStretch / kWordBits>;

std::int64_t divide_up(std::int64_t a, std::int64_t b) { return (a + b - 1) / b; }

bool is_bitmap(std::uint32_t count) { return count > kMostListed; }

std::size_t num_words(std::uint32_t count) { return is_bitmap(count) ? kBitmapWords : count; }

bool is_saved_as_bitmap(std::uint32_t count) { return count > kBitmapWords; }

std::size_t num_saved_words(std::uint32_t count) { return std::min<std::size_t>(count, kBitmapWords); }

std::uint16_t bit_of(std::uint16_t offset) { return static_cast<std::uint16_t>(1U << (offset % 16)); }

/// Calls `body(offset)` for every member of a stretch in ascending order.
template <class Body>
void for_each_offset(const std::uint16_t* words, std::uint32_t count, Body&& body) {
  if (!is_bitmap(count)) {
    for (std::uint32_t i = 0; i < count; ++i) body(std::int64_t{words[i]});
    return;
  }
  for (std::size_t word = 0; word < kBitmapWords; ++word) {
    for (unsigned left = words[word]; left != 0; left &= left - 1) {
      body(static_cast<std::int64_t>(word) * 16 + std::countr_zero(left));
    }
  }
}

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

/// Walks over the stretches of a group.
class CompressedSet::Cursor {
 public:
  explicit Cursor(const Group& group)
      : stretch_(group.stretches.data()), end_(stretch_ + group.stretches.size()), words_(group.words.data()) {}

  bool is_valid() const noexcept { return stretch_ != end_; }
  std::int64_t number() const noexcept { return *stretch_ >> kCountBits; }
  std::uint32_t count() const noexcept { return *stretch_ & kCountMask; }
  const std::uint16_t* words() const noexcept { return words_; }
  void advance() noexcept {
    words_ += num_words(count());
    ++stretch_;
  }

 private:
  const std::uint32_t* stretch_;
  const std::uint32_t* end_;
  const std::uint16_t* words_;
};

/// Makes a group, stretch by stretch.
class CompressedSet::Builder {
 public:
  /// Appends a stretch as it is.
  void copy(std::int64_t number, std::uint32_t count, const std::uint16_t* words) {
    begin(number, count);
    words_.insert(words_.end(), words, words + num_words(count));
  }

  /// Appends the stretch of ascending offsets, at least one.
  void add(std::int64_t number, const std::vector<std::uint16_t>& offsets) {
    const auto count = static_cast<std::uint32_t>(offsets.size());
    if (!is_bitmap(count)) return copy(number, count, offsets.data());
    begin(number, count);
    std::uint16_t* const bits = append_bitmap();
    for (const std::uint16_t offset : offsets) bits[offset / 16] |= bit_of(offset);
  }

  /// Appends the union of a stretch and ascending offsets.
  void unite(const Cursor& old, const std::vector<std::uint16_t>& offsets) {
    if (!is_bitmap(old.count())) {
      united_.clear();
      std::set_union(old.words(), old.words() + old.count(), offsets.begin(), offsets.end(),
                     std::back_inserter(united_));
      return add(old.number(), united_);
    }
    std::uint32_t count = old.count();
    std::uint16_t* const bits = append_bitmap();
    std::copy_n(old.words(), kBitmapWords, bits);
    for (const std::uint16_t offset : offsets) {
      std::uint16_t& word = bits[offset / 16];
      count += (word & bit_of(offset)) == 0 ? 1U : 0U;
      word |= bit_of(offset);
    }
    begin(old.number(), count);
  }

  /// Appends a stretch of bits, if it has any.
  void add(std::int64_t number, const StretchBits& bits) {
    const auto count = static_cast<std::uint32_t>(cpu::kernels().count(bits.data(), std::ssize(bits)));
    if (count == 0) return;
    begin(number, count);
    const std::size_t old_size = words_.size();
    words_.resize(old_size + num_words(count) + cpu::kListedSlack);
    std::uint16_t* const end = words_.data() + old_size;
    if (is_bitmap(count)) {
      static_assert(std::endian::native == std::endian::little);
      std::memcpy(end, bits.data(), sizeof(bits));
    } else {
      cpu::kernels().list_offsets(bits.data(), std::ssize(bits), end);
    }
    words_.resize(old_size + num_words(count));
  }

  /// The group, in memory of just its size.
  Group finish() const {
    Group group;
    group.stretches.assign(stretches_.begin(), stretches_.end());
    group.words.assign(words_.begin(), words_.end());
    group.count = count_;
    return group;
  }

 private:
  void begin(std::int64_t number, std::uint32_t count) {
    stretches_.push_back((static_cast<std::uint32_t>(number) << kCountBits) | count);
    count_ += count;
  }
  std::uint16_t* append_bitmap() {
    words_.resize(words_.size() + kBitmapWords, 0);
    return words_.data() + words_.size() - kBitmapWords;
  }

  std::vector<std::uint32_t> stretches_;
  std::vector<std::uint16_t> words_;
  std::vector<std::uint16_t> united_;
  std::int64_t count_ = 0;
};

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

// --- bytes -----------------------------------------------------------------------------------------------------------

std::vector<std::uint8_t> CompressedSet::to_bytes() const {
  static_assert(std::endian::native == std::endian::little, "bytes are written as they lie in memory");
  std::uint64_t num_stretches = 0;
  std::size_t num_all_words = 0;
  for (const Group& group : groups_) {
    num_stretches += group.stretches.size();
    for (const std::uint32_t stretch : group.stretches) num_all_words += num_saved_words(stretch & kCountMask);
  }
  std::vector<std::uint8_t> bytes((1 + num_stretches) * sizeof(std::uint64_t) + num_all_words * sizeof(std::uint16_t));
  std::uint8_t* header = bytes.data();
  const auto write_header = [&](std::uint64_t value) {
    std::memcpy(header, &value, sizeof(value));
    header += sizeof(value);
  };
  write_header(num_stretches);
  std::uint8_t* contents = bytes.data() + (1 + num_stretches) * sizeof(std::uint64_t);
  std::vector<std::uint16_t> listed;
  for (std::size_t number = 0; number < groups_.size(); ++number) {
    const std::uint64_t first = number * static_cast<std::uint64_t>(group_stretches_) << kCountBits;
    for (Cursor stretch(groups_[number]); stretch.is_valid(); stretch.advance()) {
      write_header(first + (static_cast<std::uint64_t>(stretch.number()) << kCountBits) + stretch.count());
      const std::uint16_t* words = stretch.words();
      if (is_bitmap(stretch.count()) && !is_saved_as_bitmap(stretch.count())) {
        listed.clear();
        for_each_offset(words, stretch.count(),
                        [&](std::int64_t offset) { listed.push_back(static_cast<std::uint16_t>(offset)); });
        words = listed.data();
      }
      const std::size_t size = num_saved_words(stretch.count()) * sizeof(std::uint16_t);
      std::memcpy(contents, words, size);
      contents += size;
    }
  }
  return bytes;
}

namespace {

[[noreturn]] void refuse(const char* why) {
  throw std::invalid_argument(std::string("the bytes are no set of positions: ") + why);
}

/// Refuses saved contents that are not `count` members below `length`, in their order.
void check_stretch(const std::uint16_t* words, std::uint32_t count, std::int64_t length) {
  std::int64_t last = -1;
  if (is_saved_as_bitmap(count)) {
    std::uint32_t num_bits = 0;
    for (std::size_t word = 0; word < kBitmapWords; ++word) {
      num_bits += static_cast<std::uint32_t>(std::popcount(words[word]));
      if (words[word] != 0) last = static_cast<std::int64_t>(word) * 16 + std::bit_width(words[word]) - 1;
    }
    if (num_bits != count) refuse("a count is wrong");
  } else {
    for (std::uint32_t i = 0; i < count; ++i) {
      if (words[i] <= last) refuse("offsets do not ascend");
      last = words[i];
    }
  }
  if (last >= length) refuse("an index is out of range");
}

}  // namespace

CompressedSet CompressedSet::from_bytes(std::int64_t numel, const std::uint8_t* bytes, std::size_t num_bytes) {
  CompressedSet set(numel);
  std::uint64_t num_stretches = 0;
  if (num_bytes < sizeof(num_stretches)) refuse("they are too few");
  std::memcpy(&num_stretches, bytes, sizeof(num_stretches));
  if (num_stretches > num_bytes / sizeof(std::uint64_t) - 1) refuse("they are too few");
  const auto header = [&](std::uint64_t i) {
    std::uint64_t value = 0;
    std::memcpy(&value, bytes + (1 + i) * sizeof(value), sizeof(value));
    return value;
  };
  std::size_t at = (1 + num_stretches) * sizeof(std::uint64_t);
  std::vector<std::uint16_t> words;
  std::uint64_t next = 0;
  for (std::size_t number = 0; number < set.groups_.size() && next < num_stretches; ++number) {
    Builder builder;
    std::int64_t last_stretch = -1;
    const std::int64_t first_stretch = static_cast<std::int64_t>(number) * set.group_stretches_;
    for (; next < num_stretches; ++next) {
      const auto stretch = static_cast<std::int64_t>(header(next) >> kCountBits);
      const auto count = static_cast<std::uint32_t>(header(next) & kCountMask);
      if (stretch >= first_stretch + set.group_stretches_) break;
      const std::int64_t length = std::min(kStretch, numel - stretch * kStretch);
      if (stretch < first_stretch || stretch <= last_stretch || length <= 0) refuse("stretches do not ascend in range");
      if (count == 0 || count > length) refuse("a count is wrong");
      words.resize(num_saved_words(count));
      const std::size_t size = words.size() * sizeof(std::uint16_t);
      if (num_bytes - at < size) refuse("they are too few");
      std::memcpy(words.data(), bytes + at, size);
      at += size;
      check_stretch(words.data(), count, length);
      if (is_saved_as_bitmap(count)) {
        builder.copy(stretch - first_stretch, count, words.data());
      } else {
        builder.add(stretch - first_stretch, words);
      }
      last_stretch = stretch;
    }
    set.groups_[number] = builder.finish();
    set.count_ += set.groups_[number].count;
  }
  if (next != num_stretches) refuse("stretches do not ascend in range");
  if (at != num_bytes) refuse("they are too many");
  return set;
}

}  // namespace itop
