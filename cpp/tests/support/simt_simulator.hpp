#pragma once

#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <functional>
#include <stdexcept>

#include "cuda/launch_shape.hpp"
#include "cuda/vector.hpp"
#include "itop/bitset.hpp"

/// A GPU's execution model on the host: what cuda/simt.hpp names, for code that no nvcc compiles. Every thread of a
/// block is a fiber; a barrier or warp operation suspends it until all have come. A kernel whose threads do not all
/// come (a divergent barrier, a lane missing from a ballot) never gets on, and that is reported. Blocks run one after
/// the other.
namespace itop::cuda::simt {

/// In which order runnable threads, and the blocks of a launch, get their turn. Results must not depend on it.
enum class Schedule : std::uint8_t { kForward, kBackward, kShuffled };

/// What memory holds that nobody has written yet.
constexpr unsigned char garbage_of(Schedule schedule) {
  return schedule == Schedule::kForward ? 0xA5 : schedule == Schedule::kBackward ? 0xFF : 0x00;
}

/// Runs `body` as every thread of every block. One launch at a time: others wait.
/// @throws std::logic_error if the threads of a block wait for different things
void simulate(std::int64_t num_blocks, int num_threads, Schedule schedule, const std::function<void()>& body);

int thread();
int num_threads();
std::int64_t block();
std::int64_t num_blocks();
void sync_block();

/// Memory that the threads of a block share, one object a key; garbage when a block begins.
void* shared_memory(const void* key, std::size_t num_bytes);
template <class T>
T& shared() {
  static const char key = 0;
  return *static_cast<T*>(shared_memory(&key, sizeof(T)));
}

enum class WarpOperation : std::uint8_t { kBallot, kShuffle, kShuffleUp, kMatch };

/// Gives this lane's value to the warp and returns those of all lanes, valid until the lane's next operation.
const std::uint64_t* exchange(WarpOperation operation, std::uint64_t value);

inline int lane_index() { return thread() % kWarpSize; }

inline std::uint32_t ballot(bool predicate) {
  const std::uint64_t* values = exchange(WarpOperation::kBallot, predicate ? 1 : 0);
  std::uint32_t bits = 0;
  for (int lane = 0; lane < kWarpSize; ++lane) bits |= static_cast<std::uint32_t>(values[lane]) << lane;
  return bits;
}

template <class T>
std::uint64_t to_bits(T value) {
  static_assert(sizeof(T) <= sizeof(std::uint64_t));
  std::uint64_t bits = 0;
  std::memcpy(&bits, &value, sizeof(T));
  return bits;
}
template <class T>
T from_bits(std::uint64_t bits) {
  T value;
  std::memcpy(&value, &bits, sizeof(T));
  return value;
}

template <class T>
T shuffle(T value, int source_lane) {
  return from_bits<T>(exchange(WarpOperation::kShuffle, to_bits(value))[source_lane % kWarpSize]);
}
template <class T>
T shuffle_up(T value, int distance) {
  const std::uint64_t* values = exchange(WarpOperation::kShuffleUp, to_bits(value));
  return lane_index() < distance ? value : from_bits<T>(values[lane_index() - distance]);
}
inline std::uint32_t match(std::uint32_t value) {
  const std::uint64_t* values = exchange(WarpOperation::kMatch, value);
  std::uint32_t same = 0;
  for (int lane = 0; lane < kWarpSize; ++lane) same |= std::uint32_t{values[lane] == value} << lane;
  return same;
}

/// Loads of 16 bytes since a test made this zero.
inline std::int64_t num_vector_loads = 0;

// Fibers take turns on one thread, so plain arithmetic is atomic.
inline std::uint32_t atomic_add(std::uint32_t* target, std::uint32_t value) {
  const std::uint32_t before = *target;
  *target += value;
  return before;
}
inline std::uint64_t atomic_add(std::uint64_t* target, std::uint64_t value) {
  const std::uint64_t before = *target;
  *target += value;
  return before;
}
inline void atomic_or(std::uint64_t* target, std::uint64_t value) { *target |= value; }

inline void require_vector_address(const void* address) {
  if (!is_vector_address(address)) {
    throw std::logic_error("an access of 16 bytes at an address that 16 does not divide");
  }
}
inline Vector load_vector(const void* address) {
  require_vector_address(address);
  ++num_vector_loads;
  Vector vector;
  std::memcpy(&vector, address, sizeof(vector));
  return vector;
}
inline void store_vector(void* address, const Vector& vector) {
  require_vector_address(address);
  std::memcpy(address, &vector, sizeof(vector));
}

inline int popcount(Word word) { return std::popcount(word); }
inline int lowest_bit(Word word) { return word == 0 ? -1 : std::countr_zero(word); }

}  // namespace itop::cuda::simt
