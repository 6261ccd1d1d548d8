#pragma once

#include <bit>
#include <cstdint>

#include "itop/host_device.hpp"

namespace itop {

/// Bits are packed into words of 64; weight i is bit `i % 64` of word `i / 64`. Bits past the last weight are zero.
using Word = std::uint64_t;
inline constexpr std::int64_t kWordBits = 64;

ITOP_HOST_DEVICE constexpr std::int64_t words_for(std::int64_t num_bits) {
  return (num_bits + kWordBits - 1) / kWordBits;
}

/// The valid bits of word `word` in a set of `num_bits` bits.
ITOP_HOST_DEVICE constexpr Word valid_bits(std::int64_t word, std::int64_t num_bits) {
  const std::int64_t left = num_bits - word * kWordBits;
  return left >= kWordBits ? ~Word{0} : left <= 0 ? Word{0} : (Word{1} << left) - 1;
}

ITOP_HOST_DEVICE bool test_bit(const Word* words, std::int64_t bit) {
  return (words[bit / kWordBits] >> (bit % kWordBits)) & 1u;
}

}  // namespace itop
