#include "itop/compressed_set.hpp"

#include <algorithm>
#include <bit>
#include <cstring>
#include <iterator>
#include <stdexcept>
#include <string>
#include <utility>

#include "itop/bitset.hpp"
#include "itop/thread_pool.hpp"

namespace itop {
namespace {

constexpr int kStretchWords = 1024;  // of 64 bits

void check_numel(const PositionList& positions, std::int64_t numel) {
  if (positions.num_rows * positions.num_columns != numel) {
    throw std::invalid_argument("a set over " + std::to_string(numel) + " indices takes no positions of a " +
                                std::to_string(positions.num_rows) + "x" + std::to_string(positions.num_columns) +
                                " matrix");
  }
}

std::uint16_t bit_of(std::uint16_t offset) { return static_cast<std::uint16_t>(1U << (offset % 16)); }

/// Calls `body(offset)` for the members of a bitmap of 64-bit words in ascending order.
template <class Body>
void for_each_bit(const Word* words, Body&& body) {
  for (int word = 0; word < kStretchWords; ++word) {
    for (Word left = words[word]; left != 0; left &= left - 1) {
      body(static_cast<std::uint16_t>(word * kWordBits + std::countr_zero(left)));
    }
  }
}

}  // namespace

struct CompressedSet::Touched {
  std::uint32_t key;
  std::int64_t row;  ///< of the first entry
  std::int64_t first_entry;
  std::int64_t last_entry;
};

CompressedSet::CompressedSet(std::int64_t numel) : numel_(numel) {
  if (numel < 0 || numel >= std::int64_t{1} << 48) {
    throw std::invalid_argument("numel must be in [0, 2^48), got " + std::to_string(numel));
  }
}

std::size_t CompressedSet::num_bytes() const noexcept {
  std::size_t bytes = stretches_.capacity() * sizeof(Stretch);
  for (const Stretch& stretch : stretches_) bytes += stretch.num_words() * sizeof(std::uint16_t);
  return bytes;
}

bool CompressedSet::Stretch::contains(std::uint16_t offset) const noexcept {
  if (is_bitmap()) return (words[offset / 16] & bit_of(offset)) != 0;
  return std::binary_search(words.get(), words.get() + count, offset);
}

void CompressedSet::Stretch::insert(const std::vector<std::uint16_t>& offsets) {
  static_assert(std::endian::native == std::endian::little, "words of 16 bits are read as words of 64");
  if (is_bitmap()) {
    for (const std::uint16_t offset : offsets) {
      std::uint16_t& word = words[offset / 16];
      count += (word >> (offset % 16) & 1U) ^ 1U;
      word |= bit_of(offset);
    }
    return;
  }
  constexpr std::size_t kFew = 256;
  if (count + offsets.size() <= kFew) {
    std::uint16_t merged[kFew];
    const auto* const end = std::set_union(words.get(), words.get() + count, offsets.begin(), offsets.end(), merged);
    const auto size = static_cast<std::uint32_t>(end - merged);
    if (size == count) return;
    words = std::make_unique<std::uint16_t[]>(size);
    std::copy_n(merged, size, words.get());
    count = size;
    return;
  }
  // Many are merged as bits: no branch depends on which list goes on.
  Word bits[kStretchWords] = {};
  const auto set = [&](std::uint16_t offset) { bits[offset / kWordBits] |= Word{1} << (offset % kWordBits); };
  std::for_each_n(words.get(), count, set);
  std::for_each(offsets.begin(), offsets.end(), set);
  std::uint32_t size = 0;
  for (const Word word : bits) size += static_cast<std::uint32_t>(std::popcount(word));
  if (size == count) return;
  count = size;
  words = std::make_unique_for_overwrite<std::uint16_t[]>(num_words());
  if (is_bitmap()) {
    std::memcpy(words.get(), bits, sizeof(bits));
  } else {
    std::uint16_t* next = words.get();
    for_each_bit(bits, [&](std::uint16_t offset) { *next++ = offset; });
  }
}

const CompressedSet::Stretch* CompressedSet::find(std::uint32_t key) const noexcept {
  const auto place =
      std::lower_bound(stretches_.begin(), stretches_.end(), key,
                       [](const Stretch& stretch, std::uint32_t wanted) { return stretch.key < wanted; });
  return place != stretches_.end() && place->key == key ? &*place : nullptr;
}

/// From the first entry of one stretch straight to the first of the next: a search in the row where it begins.
std::vector<CompressedSet::Touched> CompressedSet::touched_by(const PositionList& positions) const {
  std::vector<Touched> touched;
  const std::int64_t count = positions.count();
  std::int64_t row = 0;
  for (std::int64_t entry = 0; entry < count;) {
    while (positions.row_pointers[row + 1] <= entry) ++row;
    const std::int64_t key = (row * positions.num_columns + positions.columns[entry]) / kLength;
    const std::int64_t next = (key + 1) * kLength;
    std::int64_t last = count;
    if (next < numel_) {
      const std::int64_t next_row = next / positions.num_columns;
      const std::int32_t* const begin = positions.columns + positions.row_pointers[next_row];
      const std::int32_t* const end = positions.columns + positions.row_pointers[next_row + 1];
      last = std::lower_bound(begin, end, next - next_row * positions.num_columns) - positions.columns;
    }
    touched.push_back({static_cast<std::uint32_t>(key), row, entry, last});
    entry = last;
  }
  return touched;
}

/// Makes empty stretches for keys that have none.
void CompressedSet::make_room_for(const std::vector<Touched>& touched) {
  std::size_t num_missing = 0;
  auto known = stretches_.begin();
  for (const Touched& each : touched) {
    while (known != stretches_.end() && known->key < each.key) ++known;
    num_missing += known != stretches_.end() && known->key == each.key ? 0 : 1;
  }
  if (num_missing == 0) return;
  // From the back, so that nothing is moved twice.
  auto from = static_cast<std::ptrdiff_t>(stretches_.size()) - 1;
  stretches_.resize(stretches_.size() + num_missing);
  auto to = static_cast<std::ptrdiff_t>(stretches_.size()) - 1;
  const auto at = [&](std::ptrdiff_t place) -> Stretch& { return stretches_[static_cast<std::size_t>(place)]; };
  for (auto each = touched.rbegin(); each != touched.rend(); ++each) {
    while (from >= 0 && at(from).key > each->key) at(to--) = std::move(at(from--));
    if (from >= 0 && at(from).key == each->key) continue;
    at(to--) = Stretch{each->key, 0, nullptr};
    if (from == to) break;
  }
}

std::int64_t CompressedSet::insert(const PositionList& positions, ThreadPool& pool) {
  check_numel(positions, numel_);
  const std::vector<Touched> touched = touched_by(positions);
  make_room_for(touched);
  constexpr std::size_t kPerChunk = 8;
  const std::size_t num_chunks = (touched.size() + kPerChunk - 1) / kPerChunk;
  std::vector<std::int64_t> num_new(num_chunks, 0);
  pool.parallel_for(static_cast<std::int64_t>(num_chunks), [&](std::int64_t chunk) {
    const auto first = static_cast<std::size_t>(chunk) * kPerChunk;
    const std::size_t last = std::min(touched.size(), first + kPerChunk);
    std::vector<std::uint16_t> offsets;
    for (std::size_t i = first; i < last; ++i) {
      const Touched& each = touched[i];
      offsets.resize(static_cast<std::size_t>(each.last_entry - each.first_entry));
      std::int64_t row = each.row;
      for (std::int64_t entry = each.first_entry; entry < each.last_entry; ++row) {
        const std::int64_t end = std::min(each.last_entry, positions.row_pointers[row + 1]);
        const auto row_start = static_cast<std::uint16_t>(row * positions.num_columns);  // all that matters of it
        for (; entry < end; ++entry) {
          offsets[static_cast<std::size_t>(entry - each.first_entry)] =
              static_cast<std::uint16_t>(row_start + static_cast<std::uint16_t>(positions.columns[entry]));
        }
      }
      Stretch& stretch = stretches_[static_cast<std::size_t>(find(each.key) - stretches_.data())];
      const std::uint32_t before = stretch.count;
      stretch.insert(offsets);
      num_new[static_cast<std::size_t>(chunk)] += stretch.count - before;
    }
  });
  std::int64_t total = 0;
  for (const std::int64_t each : num_new) total += each;
  count_ += total;
  return total;
}

bool CompressedSet::contains_all(const PositionList& positions) const {
  check_numel(positions, numel_);
  for (const Touched& each : touched_by(positions)) {
    const Stretch* const stretch = find(each.key);
    if (stretch == nullptr) return false;
    std::int64_t row = each.row;
    for (std::int64_t entry = each.first_entry; entry < each.last_entry; ++entry) {
      while (positions.row_pointers[row + 1] <= entry) ++row;
      const std::int64_t position = row * positions.num_columns + positions.columns[entry];
      if (!stretch->contains(static_cast<std::uint16_t>(position))) return false;
    }
  }
  return true;
}

Positions CompressedSet::to_positions(std::int64_t num_columns) const {
  const std::int64_t num_rows = num_columns == 0 ? 0 : numel_ / num_columns;
  if (num_rows * num_columns != numel_) {
    throw std::invalid_argument("rows of " + std::to_string(num_columns) + " do not divide " + std::to_string(numel_));
  }
  Positions result{num_rows, num_columns, ScratchArray<std::int64_t>(static_cast<std::size_t>(num_rows) + 1),
                   ScratchArray<std::int32_t>(static_cast<std::size_t>(count_))};
  result.row_pointers[0] = 0;
  std::int64_t row = 0;
  std::int64_t row_start = 0;
  std::int64_t written = 0;
  const auto add = [&](std::int64_t position) {
    while (position >= row_start + num_columns) {
      result.row_pointers[static_cast<std::size_t>(++row)] = written;
      row_start += num_columns;
    }
    result.columns[static_cast<std::size_t>(written++)] = static_cast<std::int32_t>(position - row_start);
  };
  for (const Stretch& stretch : stretches_) {
    const auto start = std::int64_t{stretch.key} * kLength;
    if (stretch.is_bitmap()) {
      Word bits[kStretchWords];
      std::memcpy(bits, stretch.words.get(), sizeof(bits));
      for_each_bit(bits, [&](std::uint16_t offset) { add(start + offset); });
    } else {
      std::for_each_n(stretch.words.get(), stretch.count, [&](std::uint16_t offset) { add(start + offset); });
    }
  }
  while (row < num_rows) result.row_pointers[static_cast<std::size_t>(++row)] = written;
  return result;
}

std::vector<std::uint8_t> CompressedSet::to_bytes() const {
  const auto num_stretches = static_cast<std::size_t>((numel_ + kLength - 1) / kLength);
  std::size_t num_words = 0;
  for (const Stretch& stretch : stretches_) num_words += stretch.num_words();
  std::vector<std::uint8_t> bytes(num_stretches * sizeof(std::uint32_t) + num_words * sizeof(std::uint16_t));
  std::uint8_t* contents = bytes.data() + num_stretches * sizeof(std::uint32_t);
  for (const Stretch& stretch : stretches_) {
    std::memcpy(bytes.data() + stretch.key * sizeof(std::uint32_t), &stretch.count, sizeof(stretch.count));
    const std::size_t size = stretch.num_words() * sizeof(std::uint16_t);
    std::memcpy(contents, stretch.words.get(), size);
    contents += size;
  }
  return bytes;
}

CompressedSet CompressedSet::from_bytes(std::int64_t numel, const std::uint8_t* bytes, std::size_t num_bytes) {
  const auto refuse = [](const char* why) {
    throw std::invalid_argument(std::string("the bytes are no set of positions: ") + why);
  };
  CompressedSet set(numel);
  const auto num_stretches = static_cast<std::size_t>((numel + kLength - 1) / kLength);
  std::size_t at = num_stretches * sizeof(std::uint32_t);
  if (num_bytes < at) refuse("they are too few");
  for (std::size_t i = 0; i < num_stretches; ++i) {
    Stretch stretch;
    stretch.key = static_cast<std::uint32_t>(i);
    std::memcpy(&stretch.count, bytes + i * sizeof(std::uint32_t), sizeof(stretch.count));
    if (stretch.count == 0) continue;
    const std::int64_t length = std::min(kLength, numel - static_cast<std::int64_t>(i) * kLength);
    if (stretch.count > static_cast<std::uint64_t>(length)) refuse("a count is too large");
    const std::size_t size = stretch.num_words() * sizeof(std::uint16_t);
    if (num_bytes - at < size) refuse("they are too few");
    stretch.words = std::make_unique_for_overwrite<std::uint16_t[]>(stretch.num_words());
    std::memcpy(stretch.words.get(), bytes + at, size);
    at += size;
    std::int64_t last = -1;
    if (stretch.is_bitmap()) {
      Word bits[kStretchWords];
      std::memcpy(bits, stretch.words.get(), sizeof(bits));
      std::uint32_t count = 0;
      for_each_bit(bits, [&](std::uint16_t offset) {
        ++count;
        last = offset;
      });
      if (count != stretch.count) refuse("a count is wrong");
    } else {
      for (std::uint32_t word = 0; word < stretch.count; ++word) {
        if (stretch.words[word] <= last) refuse("offsets do not ascend");
        last = stretch.words[word];
      }
    }
    if (last >= length) refuse("an index is out of range");
    set.count_ += stretch.count;
    set.stretches_.push_back(std::move(stretch));
  }
  if (at != num_bytes) refuse("they are too many");
  return set;
}

}  // namespace itop
