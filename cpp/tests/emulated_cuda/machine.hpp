#pragma once

#include <cstddef>
#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "cuda_runtime_api.h"
#include "emulated_cuda/device_pages.hpp"
#include "support/simt_simulator.hpp"

struct CUevent_st;

namespace itop::emulated_cuda {

/// How often the host asked for what.
struct Calls {
  int launches = 0;
  int waits = 0;  ///< for a stream or an event with work that is not done, which idle a GPU
  int uploads = 0;
  int downloads = 0;
  int memsets = 0;
  int allocations = 0;
  int stream_waits = 0;  ///< of one stream for another, which idle nobody

  friend bool operator==(const Calls&, const Calls&) = default;
};

/// When streams do their work.
enum class Pace : std::uint8_t {
  kEager,  ///< at once, as a fast GPU might
  kLate,   ///< when the host waits for it and not before, each stream for itself, as a slow GPU might
};

/// A machine with GPUs: devices, streams, events, memory, and the order in which work is done.
///
/// Device memory holds garbage when it is allocated, another one for each schedule. Only the device's work may touch it
/// (device_pages.hpp); a write past either end is reported when the memory is freed or checked. Copies and memsets must
/// lie inside one allocation. Work on the null stream waits for nothing but what was given to it before, like that on
/// streams which do not block.
class Machine {
 public:
  static Machine& instance();

  // --- what tests set and read ---

  Pace pace = Pace::kLate;
  cuda::simt::Schedule schedule = cuda::simt::Schedule::kForward;
  int num_devices = 1;
  cudaError_t driver = cudaSuccess;  ///< what cudaGetDeviceCount answers
  Calls calls;

  /// A stream beside the null stream.
  cudaStream_t make_stream();
  /// Finishes all work, and makes sure that nobody wrote past an end.
  /// @throws std::logic_error if somebody did
  void finish();
  int num_allocations() const { return static_cast<int>(allocations_.size()); }
  /// The call of this name (`cudaMallocFromPoolAsync` ...) that comes after `skipped` others fails.
  void fail(const std::string& call, cudaError_t error, int skipped = 0);

  /// Between these two, work given to the stream becomes a graph and is not done; what cannot be captured fails.
  void begin_capture(cudaStream_t stream);
  std::vector<std::function<void()>> end_capture();

  // --- what the runtime's functions do ---

  cudaError_t answer(const char* call, cudaError_t error = cudaSuccess);
  cudaError_t last_error();
  cudaError_t enqueue(cudaStream_t stream, std::function<void()> work);
  cudaError_t wait_for(cudaStream_t stream);
  cudaError_t wait_for(cudaEvent_t event);
  cudaError_t record(cudaEvent_t event, cudaStream_t stream);
  cudaError_t hold_back(cudaStream_t stream, cudaEvent_t event);
  cudaError_t allocate(void** pointer, std::size_t size, cudaStream_t stream);
  cudaError_t release(void* pointer, cudaStream_t stream);
  bool is_inside_an_allocation(const void* pointer, std::size_t size) const;
  /// Does what the device does: with its memory open, or with the one allocation that holds `pointer`.
  void as_device(const std::function<void()>& work) const;
  void as_device(const void* pointer, const std::function<void()>& work) const;
  bool is_capturing() const { return capturing_ != nullptr; }
  bool is_capturing(cudaStream_t stream) const { return capturing_ == &queue_of(stream); }

  std::recursive_mutex mutex;
  int current_device = 0;

 private:
  struct Queue {
    std::deque<std::function<void()>> work;
    std::uint64_t num_given = 0;
    std::uint64_t num_done = 0;
  };
  struct Allocation {
    std::unique_ptr<DevicePages> pages;
    bool is_freed = false;
  };
  friend struct ::CUevent_st;

  Machine() = default;
  Queue& queue_of(cudaStream_t stream) const;
  void do_until(Queue& queue, std::uint64_t position);
  /// The allocation that holds `pointer`; the end where there is none.
  std::map<const std::byte*, Allocation>::const_iterator find(const void* pointer) const;

  mutable std::map<cudaStream_t, Queue> queues_;
  std::map<const std::byte*, Allocation> allocations_;
  cudaError_t last_error_ = cudaSuccess;
  std::map<std::string, std::pair<int, cudaError_t>> failures_;
  Queue* capturing_ = nullptr;
  std::vector<std::function<void()>> graph_;
  bool is_capture_broken_ = false;
  std::uintptr_t num_streams_ = 0;
};

}  // namespace itop::emulated_cuda
