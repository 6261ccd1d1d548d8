#include "sparse_operands.hpp"

#include <algorithm>
#include <cstring>

#include "itop/bfloat16.hpp"
#include "itop/sparse_scratch.hpp"
#include "itop/thread_pool.hpp"

namespace itop {
namespace {

constexpr std::int64_t kFeaturesPerStrip = 512;

template <class Scalar>
ValueType type_of() {
  return sizeof(Scalar) == 8 ? ValueType::kFloat64 : ValueType::kFloat32;
}

std::int64_t divide_up(std::int64_t a, std::int64_t b) { return (a + b - 1) / b; }

}  // namespace

std::vector<SampleTile> tile_samples(std::int64_t first, std::int64_t count, int max_log2) {
  std::vector<SampleTile> tiles;
  std::int64_t packed = 0;
  while (count > 0) {
    int log2 = max_log2;
    // A tile more than a quarter empty costs more than two smaller ones.
    while (log2 > 0 && count * 4 <= (std::int64_t{3} << log2)) --log2;
    SampleTile tile{first, static_cast<int>(std::min<std::int64_t>(count, std::int64_t{1} << log2)), log2, packed};
    tiles.push_back(tile);
    packed += tile.size();
    first += tile.num_samples;
    count -= tile.num_samples;
  }
  return tiles;
}

std::int64_t packed_samples(const std::vector<SampleTile>& tiles) {
  return tiles.empty() ? 0 : tiles.back().packed_before + tiles.back().size();
}

template <class Scalar>
void pack_activations(const ActivationView& dense, std::int64_t num_features, const std::vector<SampleTile>& tiles,
                      Scalar* packed, ThreadPool& pool) {
  const auto& kernels = cpu::sparse_kernels<Scalar>();
  const std::int64_t num_strips = divide_up(num_features, kFeaturesPerStrip);
  const auto pack_strip = [&](std::int64_t chunk) {
    const SampleTile& tile = tiles[static_cast<std::size_t>(chunk / num_strips)];
    const std::int64_t strip = chunk % num_strips;
    const std::int64_t first = strip * kFeaturesPerStrip;
    const std::int64_t count = std::min(kFeaturesPerStrip, num_features - first);
    Scalar* const to = packed + tile.packed_before * num_features + first * tile.size();
    const std::int64_t start = tile.first * num_features + first;
    if (dense.type == type_of<Scalar>()) {
      kernels.pack(static_cast<const Scalar*>(dense.data) + start, num_features, tile.num_samples, count, to,
                   tile.size());
      return;
    }
    const ScratchLease wide(static_cast<std::size_t>(tile.num_samples * count) * sizeof(Scalar));
    for (int s = 0; s < tile.num_samples; ++s) {
      gather_values<Scalar>(dense.data, dense.type, nullptr, start + s * num_features, count,
                            wide.as<Scalar>() + s * count);
    }
    kernels.pack(wide.as<Scalar>(), count, tile.num_samples, count, to, tile.size());
  };
  const std::int64_t num_chunks = static_cast<std::int64_t>(tiles.size()) * num_strips;
  if (num_features * packed_samples(tiles) < 65536) {
    for (std::int64_t chunk = 0; chunk < num_chunks; ++chunk) pack_strip(chunk);
  } else {
    pool.parallel_for(num_chunks, pack_strip);
  }
}

template <class Scalar>
void unpack_features(const Scalar* packed, const SampleTile& tile, std::int64_t first_feature, std::int64_t count,
                     void* dense, ValueType type, std::int64_t num_features) {
  const auto& kernels = cpu::sparse_kernels<Scalar>();
  const std::int64_t start = tile.first * num_features + first_feature;
  if (type == type_of<Scalar>()) {
    kernels.unpack(packed, tile.size(), tile.num_samples, count, static_cast<Scalar*>(dense) + start, num_features);
    return;
  }
  const ScratchLease wide(static_cast<std::size_t>(tile.num_samples * count) * sizeof(Scalar));
  kernels.unpack(packed, tile.size(), tile.num_samples, count, wide.as<Scalar>(), count);
  for (int s = 0; s < tile.num_samples; ++s) {
    write_values(wide.as<Scalar>() + s * count, count, dense, type, nullptr, start + s * num_features);
  }
}

template <class Scalar>
void gather_values(const void* values, ValueType type, const std::uint32_t* permutation, std::int64_t first,
                   std::int64_t count, Scalar* out) {
  if (type == ValueType::kBFloat16) {
    const auto* from = static_cast<const std::uint16_t*>(values);
    if (permutation != nullptr) {
      for (std::int64_t i = 0; i < count; ++i) out[i] = from_bfloat16(from[permutation[first + i]]);
    } else {
      for (std::int64_t i = 0; i < count; ++i) out[i] = from_bfloat16(from[first + i]);
    }
    return;
  }
  const auto* from = static_cast<const Scalar*>(values);
  if (permutation != nullptr) {
    for (std::int64_t i = 0; i < count; ++i) out[i] = from[permutation[first + i]];
  } else {
    std::memcpy(out, from + first, static_cast<std::size_t>(count) * sizeof(Scalar));
  }
}

template <class Scalar>
void write_values(const Scalar* from, std::int64_t count, void* to, ValueType type, const std::uint32_t* permutation,
                  std::int64_t first) {
  if (type == ValueType::kBFloat16) {
    auto* out = static_cast<std::uint16_t*>(to);
    for (std::int64_t i = 0; i < count; ++i) {
      out[permutation != nullptr ? permutation[first + i] : first + i] = to_bfloat16(static_cast<float>(from[i]));
    }
    return;
  }
  auto* const out = static_cast<Scalar*>(to);
  if (permutation != nullptr) {
    for (std::int64_t i = 0; i < count; ++i) out[permutation[first + i]] = from[i];
  } else {
    std::memcpy(out + first, from, static_cast<std::size_t>(count) * sizeof(Scalar));
  }
}

std::vector<std::int64_t> cut_panels(const SparsePattern& pattern, std::int64_t row_bytes, std::int64_t in_bytes,
                                     std::int64_t num_samples, int num_threads) {
  // Where the dense operand outgrows the caches, a panel is tall: every block of it that comes from memory is then
  // used by many rows. Otherwise a panel's results stay in the second level.
  constexpr std::int64_t kCachedOperand = std::int64_t{16} << 20;
  const std::int64_t panel_bytes = in_bytes <= kCachedOperand ? std::int64_t{128} << 10 : std::int64_t{4} << 20;
  const std::int64_t work = pattern.num_entries() * std::max<std::int64_t>(1, num_samples / 16) + pattern.num_rows;
  constexpr std::int64_t kWorkWorthAThread = 20000;
  const std::int64_t wanted_for_threads = num_threads == 1 ? 1 : std::int64_t{4} * num_threads;
  const std::int64_t num_panels =
      std::clamp<std::int64_t>(std::max(divide_up(pattern.num_rows * row_bytes, panel_bytes),
                                        std::min(wanted_for_threads, work / kWorkWorthAThread)),
                               1, std::max<std::int64_t>(1, pattern.num_rows));
  // A row costs something even when it is empty; its entries decide otherwise.
  const auto cost_before = [&](std::int64_t row) {
    return static_cast<std::int64_t>(pattern.block_starts[row]) + 4 * row;
  };
  const std::int64_t total = pattern.num_entries() + 4 * pattern.num_rows;
  std::vector<std::int64_t> panels{0};
  for (std::int64_t panel = 1; panel < num_panels; ++panel) {
    std::int64_t low = panels.back();
    std::int64_t high = pattern.num_rows;
    while (low < high) {
      const std::int64_t middle = low + (high - low) / 2;
      if (cost_before(middle) < total / num_panels * panel) {
        low = middle + 1;
      } else {
        high = middle;
      }
    }
    if (low > panels.back() && low < pattern.num_rows) panels.push_back(low);
  }
  panels.push_back(pattern.num_rows);
  return panels;
}

#define ITOP_INSTANTIATE(Scalar)                                                                                       \
  template void pack_activations<Scalar>(const ActivationView&, std::int64_t, const std::vector<SampleTile>&, Scalar*, \
                                         ThreadPool&);                                                                 \
  template void unpack_features<Scalar>(const Scalar*, const SampleTile&, std::int64_t, std::int64_t, void*,           \
                                        ValueType, std::int64_t);                                                      \
  template void gather_values<Scalar>(const void*, ValueType, const std::uint32_t*, std::int64_t, std::int64_t,        \
                                      Scalar*);                                                                        \
  template void write_values<Scalar>(const Scalar*, std::int64_t, void*, ValueType, const std::uint32_t*, std::int64_t);
ITOP_INSTANTIATE(float)
ITOP_INSTANTIATE(double)
#undef ITOP_INSTANTIATE

}  // namespace itop
