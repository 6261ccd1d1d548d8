#include "itop/patterns.hpp"

#include <algorithm>
#include <array>
#include <atomic>
#include <bit>
#include <cmath>
#include <limits>
#include <numeric>
#include <vector>

#include "cpu/cpu_features.hpp"
#include "cpu/pattern_kernels.hpp"

namespace itop {
namespace {

constexpr std::int64_t kChunkWeights = std::int64_t{1} << 16;
constexpr std::int64_t kChunkWords = kChunkWeights / kWordBits;

const cpu::PatternKernels& kernels() {
#if defined(__x86_64__)
  switch (cpu::instruction_set()) {
    case cpu::InstructionSet::kAvx512:
      return cpu::kAvx512PatternKernels;
    case cpu::InstructionSet::kAvx2:
      return cpu::kAvx2PatternKernels;
    case cpu::InstructionSet::kPortable:
      break;
  }
#endif
  return cpu::kPortablePatternKernels;
}

/// Rows of one matrix, as many as make a chunk, such that two chunks never share a word of bits.
std::int64_t rows_per_chunk(std::int64_t num_columns) {
  const std::int64_t step = kWordBits / std::gcd(kWordBits, std::max<std::int64_t>(1, num_columns));
  return std::max<std::int64_t>(1, kChunkWeights / (step * std::max<std::int64_t>(1, num_columns))) * step;
}

struct RowChunk {
  std::size_t selection = 0;
  std::int64_t begin = 0;
  std::int64_t end = 0;
};

std::int64_t count_bits(const Word* words, std::int64_t first, std::int64_t length) {
  std::int64_t count = 0;
  for (std::int64_t begin = 0; begin < length; begin += kWordBits) {
    count += std::popcount(cpu::bits_at(words, first + begin, std::min(kWordBits, length - begin)));
  }
  return count;
}

bool select_in_rows(const GroupSelection& selection, const RowChunk& rows, ScoreTransform transform,
                    SelectionOrder order) {
  const auto best = transform == ScoreTransform::kMagnitude ? kernels().best_by_magnitude : kernels().best_by_value;
  cpu::BestScratch scratch;
  const std::int64_t num_groups = selection.num_groups();
  bool all_finite = true;
  for (std::int64_t row = rows.begin; row < rows.end; ++row) {
    for (std::int64_t group = 0; group < num_groups; ++group) {
      const std::int64_t column = group * selection.group_size;
      const std::int64_t first = row * selection.num_columns + column;
      const std::int64_t length = std::min(selection.group_size, selection.num_columns - column);
      std::int64_t k = selection.targets[row * num_groups + group];
      if (selection.present != nullptr) k -= count_bits(selection.present, first, length);
      if (k <= 0) continue;
      all_finite &= best({selection.scores, selection.candidates, first, length, k, order}, scratch, selection.chosen);
    }
  }
  return all_finite;
}

/// Runs `body(first, last)` over pieces of [0, num_words).
template <class Body>
void for_word_chunks(std::int64_t num_words, ThreadPool& threads, Body&& body) {
  threads.parallel_for((num_words + kChunkWords - 1) / kChunkWords, [&](std::int64_t chunk) {
    body(chunk * kChunkWords, std::min((chunk + 1) * kChunkWords, num_words));
  });
}

/// Ors `length` ones into a set, from bit `first` on.
void set_bits(Word* words, std::int64_t first, std::int64_t length) {
  while (length > 0) {
    const std::int64_t shift = first % kWordBits;
    const std::int64_t here = std::min(length, kWordBits - shift);
    words[first / kWordBits] |= valid_bits(0, here) << shift;
    first += here;
    length -= here;
  }
}

}  // namespace

std::size_t select_in_groups(std::span<const GroupSelection> selections, ScoreTransform transform, SelectionOrder order,
                             ThreadPool& threads) {
  std::vector<RowChunk> chunks;
  for (std::size_t i = 0; i < selections.size(); ++i) {
    const std::int64_t step = rows_per_chunk(selections[i].num_columns);
    for (std::int64_t row = 0; row < selections[i].num_rows; row += step) {
      chunks.push_back({i, row, std::min(row + step, selections[i].num_rows)});
    }
  }
  std::vector<unsigned char> is_finite(chunks.size(), 1);
  threads.parallel_for(static_cast<std::int64_t>(chunks.size()), [&](std::int64_t task) {
    const auto i = static_cast<std::size_t>(task);
    is_finite[i] = select_in_rows(selections[chunks[i].selection], chunks[i], transform, order) ? 1 : 0;
  });
  const auto bad = std::find(is_finite.begin(), is_finite.end(), 0);
  if (bad == is_finite.end()) return selections.size();
  return chunks[static_cast<std::size_t>(bad - is_finite.begin())].selection;
}

void count_in_rows(const Word* set, std::int64_t num_rows, std::int64_t num_columns, std::int64_t* counts,
                   ThreadPool& threads) {
  const std::int64_t step = rows_per_chunk(num_columns);
  threads.parallel_for((num_rows + step - 1) / step, [&](std::int64_t chunk) {
    const std::int64_t end = std::min((chunk + 1) * step, num_rows);
    for (std::int64_t row = chunk * step; row < end; ++row) {
      counts[row] = count_bits(set, row * num_columns, num_columns);
    }
  });
}

void block_sums(const BlockGrid& grid, const float* values, ScoreTransform transform, float* sums,
                ThreadPool& threads) {
  const std::int64_t width = grid.num_columns;
  threads.parallel_for(grid.grid_rows(), [&](std::int64_t block_row) {
    std::vector<float> column_sums(static_cast<std::size_t>(width), 0.0F);
    const std::int64_t end = std::min((block_row + 1) * grid.block_rows, grid.num_rows);
    for (std::int64_t row = block_row * grid.block_rows; row < end; ++row) {
      const float* const of_row = values + row * width;
      if (transform == ScoreTransform::kMagnitude) {
        for (std::int64_t i = 0; i < width; ++i) column_sums[static_cast<std::size_t>(i)] += std::fabs(of_row[i]);
      } else {
        for (std::int64_t i = 0; i < width; ++i) column_sums[static_cast<std::size_t>(i)] += of_row[i];
      }
    }
    float* const target = sums + block_row * grid.grid_columns();
    for (std::int64_t block = 0; block < grid.grid_columns(); ++block) {
      const std::int64_t last = std::min((block + 1) * grid.block_columns, width);
      float sum = 0.0F;
      for (std::int64_t i = block * grid.block_columns; i < last; ++i) sum += column_sums[static_cast<std::size_t>(i)];
      target[block] = sum;
    }
  });
}

void blocks_with_any(const BlockGrid& grid, const Word* weights, Word* blocks, ThreadPool& threads) {
  std::fill_n(blocks, words_for(grid.num_blocks()), Word{0});
  const std::int64_t step = rows_per_chunk(grid.grid_columns());
  threads.parallel_for((grid.grid_rows() + step - 1) / step, [&](std::int64_t chunk) {
    const std::int64_t last = std::min((chunk + 1) * step, grid.grid_rows());
    for (std::int64_t block_row = chunk * step; block_row < last; ++block_row) {
      const std::int64_t end = std::min((block_row + 1) * grid.block_rows, grid.num_rows);
      for (std::int64_t column = 0; column < grid.num_columns; column += kWordBits) {
        const std::int64_t length = std::min(kWordBits, grid.num_columns - column);
        Word left = 0;
        for (std::int64_t row = block_row * grid.block_rows; row < end; ++row) {
          left |= cpu::bits_at(weights, row * grid.num_columns + column, length);
        }
        while (left != 0) {
          const std::int64_t block = (column + std::countr_zero(left)) / grid.block_columns;
          const std::int64_t bit = block_row * grid.grid_columns() + block;
          blocks[bit / kWordBits] |= Word{1} << (bit % kWordBits);
          const std::int64_t next = (block + 1) * grid.block_columns - column;
          left = next >= kWordBits ? 0 : left & ~valid_bits(0, next);
        }
      }
    }
  });
}

void weights_of_blocks(const BlockGrid& grid, const Word* blocks, Word* weights, ThreadPool& threads) {
  std::fill_n(weights, words_for(grid.num_rows * grid.num_columns), Word{0});
  const std::int64_t step = rows_per_chunk(grid.num_columns);
  threads.parallel_for((grid.num_rows + step - 1) / step, [&](std::int64_t chunk) {
    const std::int64_t last = std::min((chunk + 1) * step, grid.num_rows);
    for (std::int64_t row = chunk * step; row < last; ++row) {
      const std::int64_t first_block = row / grid.block_rows * grid.grid_columns();
      for (std::int64_t begin = 0; begin < grid.grid_columns(); begin += kWordBits) {
        Word left = cpu::bits_at(blocks, first_block + begin, std::min(kWordBits, grid.grid_columns() - begin));
        for (; left != 0; left &= left - 1) {
          const std::int64_t column = (begin + std::countr_zero(left)) * grid.block_columns;
          set_bits(weights, row * grid.num_columns + column, std::min(grid.block_columns, grid.num_columns - column));
        }
      }
    }
  });
}

void compare_with(const float* values, std::int64_t numel, ScoreTransform transform, bool greater, float limit,
                  Word* bits, ThreadPool& threads) {
  const auto compare =
      transform == ScoreTransform::kMagnitude ? kernels().compare_magnitudes : kernels().compare_values;
  for_word_chunks(words_for(numel), threads, [&](std::int64_t first, std::int64_t last) {
    compare(values, numel, first, last, greater, limit, bits + first);
  });
}

void sum_magnitudes(const Word* set, const float* values, std::int64_t numel, std::int64_t* sums, ThreadPool& threads) {
  constexpr std::int64_t kMantissaBits = 23;
  const std::int64_t num_words = words_for(numel);
  const std::int64_t num_chunks = (num_words + kChunkWords - 1) / kChunkWords;
  std::vector<std::array<std::int64_t, kNumExponents>> of_chunk(static_cast<std::size_t>(num_chunks));
  for_word_chunks(num_words, threads, [&](std::int64_t first, std::int64_t last) {
    auto& exponents = of_chunk[static_cast<std::size_t>(first / kChunkWords)];
    exponents.fill(0);
    for (std::int64_t word = first; word < last; ++word) {
      for (Word left = set[word]; left != 0; left &= left - 1) {
        const auto bits = std::bit_cast<std::uint32_t>(values[word * kWordBits + std::countr_zero(left)]) & 0x7FFFFFFFu;
        auto exponent = static_cast<std::int64_t>(bits >> kMantissaBits);
        std::int64_t mantissa = bits & ((1u << kMantissaBits) - 1);
        if (exponent > 0) {
          mantissa |= std::int64_t{1} << kMantissaBits;
          exponent += kMantissaBits - 1;
        } else if (mantissa > 0) {
          const int shift =
              std::countl_zero(static_cast<std::uint32_t>(mantissa)) - (31 - static_cast<int>(kMantissaBits));
          mantissa <<= shift;
          exponent = kMantissaBits - shift;
        }
        exponents[static_cast<std::size_t>(std::min(exponent, kNumExponents - 1))] += mantissa;
      }
    }
  });
  std::fill_n(sums, kNumExponents, std::int64_t{0});
  for (const auto& exponents : of_chunk) {
    for (std::size_t i = 0; i < exponents.size(); ++i) sums[i] += exponents[i];
  }
}

float smallest_magnitude(const Word* set, const float* values, std::int64_t numel, ThreadPool& threads) {
  const std::int64_t num_words = words_for(numel);
  std::vector<float> of_chunk(static_cast<std::size_t>((num_words + kChunkWords - 1) / kChunkWords));
  for_word_chunks(num_words, threads, [&](std::int64_t first, std::int64_t last) {
    float smallest = std::numeric_limits<float>::infinity();
    for (std::int64_t word = first; word < last; ++word) {
      for (Word left = set[word]; left != 0; left &= left - 1) {
        smallest = std::min(smallest, std::fabs(values[word * kWordBits + std::countr_zero(left)]));
      }
    }
    of_chunk[static_cast<std::size_t>(first / kChunkWords)] = smallest;
  });
  float smallest = std::numeric_limits<float>::infinity();
  for (const float chunk : of_chunk) smallest = std::min(smallest, chunk);
  return smallest;
}

void exploration_scores(const Word* active, const float* gradients, std::int64_t numel, float bonus, float epsilon,
                        std::int16_t* counts, float* scores, ThreadPool& threads) {
  for_word_chunks(words_for(numel), threads, [&](std::int64_t first, std::int64_t last) {
    for (std::int64_t word = first; word < last; ++word) {
      for (Word left = active[word]; left != 0; left &= left - 1) {
        std::int16_t& count = counts[word * kWordBits + std::countr_zero(left)];
        if (count < std::numeric_limits<std::int16_t>::max()) ++count;
      }
      const std::int64_t end = std::min((word + 1) * kWordBits, numel);
      for (std::int64_t i = word * kWordBits; i < end; ++i) {
        scores[i] = 1.0F / (static_cast<float>(counts[i]) + epsilon) * bonus + std::fabs(gradients[i]);
      }
    }
  });
}

}  // namespace itop
