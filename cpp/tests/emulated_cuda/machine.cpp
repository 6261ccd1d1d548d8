#include "emulated_cuda/machine.hpp"

#include <algorithm>
#include <stdexcept>
#include <utility>

/// A place in a stream's work: everything before it was given to the stream when the event was recorded.
struct CUevent_st {
  cudaStream_t stream = nullptr;
  std::uint64_t position = 0;
};

namespace itop::emulated_cuda {
namespace {

void require_intact(const DevicePages& pages) {
  if (!pages.is_intact()) throw std::logic_error("somebody wrote outside of device memory");
}

/// Device memory that is open as long as this lives.
class Opened {
 public:
  void add(const DevicePages& pages) {
    opened_.push_back(&pages);
    pages.open();
  }
  Opened() = default;
  Opened(const Opened&) = delete;
  Opened& operator=(const Opened&) = delete;
  ~Opened() {
    for (const DevicePages* pages : opened_) pages->close();
  }

 private:
  std::vector<const DevicePages*> opened_;
};

}  // namespace

Machine& Machine::instance() {
  static auto* machine = new Machine();  // bit sets may outlive main
  return *machine;
}

cudaStream_t Machine::make_stream() { return reinterpret_cast<cudaStream_t>(++num_streams_ * 4096); }

void Machine::finish() {
  const std::lock_guard lock(mutex);
  for (auto& [stream, queue] : queues_) do_until(queue, queue.num_given);
  for (const auto& [start, allocation] : allocations_) require_intact(*allocation.pages);
}

void Machine::fail(const std::string& call, cudaError_t error, int skipped) { failures_[call] = {skipped, error}; }

void Machine::begin_capture(cudaStream_t stream) {
  capturing_ = &queue_of(stream);
  graph_.clear();
  is_capture_broken_ = false;
}

std::vector<std::function<void()>> Machine::end_capture() {
  capturing_ = nullptr;
  if (is_capture_broken_) throw std::logic_error("the capture was broken by a call that cannot be captured");
  return std::exchange(graph_, {});
}

cudaError_t Machine::answer(const char* call, cudaError_t error) {
  if (const auto failure = failures_.find(call); failure != failures_.end() && failure->second.first-- == 0) {
    error = failure->second.second;
    failures_.erase(failure);
  }
  if (error != cudaSuccess) last_error_ = error;
  return error;
}

cudaError_t Machine::last_error() { return std::exchange(last_error_, cudaSuccess); }

Machine::Queue& Machine::queue_of(cudaStream_t stream) const { return queues_[stream]; }

cudaError_t Machine::enqueue(cudaStream_t stream, std::function<void()> work) {
  Queue& queue = queue_of(stream);
  if (capturing_ == &queue) {
    graph_.push_back(std::move(work));
    return cudaSuccess;
  }
  queue.work.push_back(std::move(work));
  ++queue.num_given;
  if (pace == Pace::kEager) do_until(queue, queue.num_given);
  return cudaSuccess;
}

void Machine::do_until(Queue& queue, std::uint64_t position) {
  while (queue.num_done < position) {
    const std::function<void()> work = std::move(queue.work.front());
    queue.work.pop_front();
    ++queue.num_done;
    work();
  }
}

cudaError_t Machine::wait_for(cudaStream_t stream) {
  if (capturing_ != nullptr) {
    is_capture_broken_ = is_capture_broken_ || is_capturing(stream);
    return cudaErrorStreamCaptureUnsupported;
  }
  Queue& queue = queue_of(stream);
  ++calls.waits;
  do_until(queue, queue.num_given);
  return cudaSuccess;
}

cudaError_t Machine::wait_for(cudaEvent_t event) {
  if (capturing_ != nullptr) return cudaErrorStreamCaptureUnsupported;
  Queue& queue = queue_of(event->stream);
  if (queue.num_done < event->position) ++calls.waits;
  do_until(queue, event->position);
  return cudaSuccess;
}

cudaError_t Machine::record(cudaEvent_t event, cudaStream_t stream) {
  event->stream = stream;
  event->position = queue_of(stream).num_given;
  return cudaSuccess;
}

cudaError_t Machine::hold_back(cudaStream_t stream, cudaEvent_t event) {
  Queue* const other = &queue_of(event->stream);
  return enqueue(stream, [this, other, position = event->position] { do_until(*other, position); });
}

cudaError_t Machine::allocate(void** pointer, std::size_t size, cudaStream_t stream) {
  if (is_capturing(stream)) return cudaErrorStreamCaptureUnsupported;  // a graph's memory is another kind
  ++calls.allocations;
  auto pages = std::make_unique<DevicePages>(size, cuda::simt::garbage_of(schedule));
  std::byte* const begin = pages->begin();
  *pointer = begin;
  allocations_.emplace(begin, Allocation{std::move(pages), false});
  return cudaSuccess;
}

cudaError_t Machine::release(void* pointer, cudaStream_t stream) {
  const auto found = allocations_.find(static_cast<const std::byte*>(pointer));
  if (found == allocations_.end() || found->second.is_freed || is_capturing(stream)) return cudaErrorInvalidValue;
  found->second.is_freed = true;
  return enqueue(stream, [this, start = found->first] {
    const auto held = allocations_.find(start);
    require_intact(*held->second.pages);
    allocations_.erase(held);
  });
}

std::map<const std::byte*, Machine::Allocation>::const_iterator Machine::find(const void* pointer) const {
  const auto* const at = static_cast<const std::byte*>(pointer);
  auto next = allocations_.upper_bound(at);
  if (next == allocations_.begin()) return allocations_.end();
  --next;
  return at < next->first + next->second.pages->size() ? next : allocations_.end();
}

bool Machine::is_inside_an_allocation(const void* pointer, std::size_t size) const {
  const auto found = find(pointer);
  if (found == allocations_.end() || found->second.is_freed) return false;
  return static_cast<const std::byte*>(pointer) + size <= found->first + found->second.pages->size();
}

void Machine::as_device(const std::function<void()>& work) const {
  Opened opened;
  for (const auto& [start, allocation] : allocations_) opened.add(*allocation.pages);
  work();
}

void Machine::as_device(const void* pointer, const std::function<void()>& work) const {
  Opened opened;
  opened.add(*find(pointer)->second.pages);
  work();
}

cudaError_t load() {
  Machine& machine = Machine::instance();
  const std::lock_guard lock(machine.mutex);
  return machine.answer("cudaFuncGetAttributes");
}

cudaError_t launch(dim3 grid, dim3 block, std::size_t argument_bytes, std::function<void()> body, cudaStream_t stream) {
  constexpr unsigned kMostBlocks = 0x7FFFFFFF;
  constexpr std::size_t kMostArguments = 32'764;
  Machine& machine = Machine::instance();
  const std::lock_guard lock(machine.mutex);
  if (grid.x == 0 || grid.x > kMostBlocks || grid.y != 1 || grid.z != 1 || block.x == 0 || block.x > 1024 ||
      argument_bytes > kMostArguments) {
    return machine.answer("cudaLaunchKernel", cudaErrorInvalidConfiguration);
  }
  if (const cudaError_t error = machine.answer("cudaLaunchKernel"); error != cudaSuccess) return error;
  ++machine.calls.launches;
  return machine.enqueue(stream, [&machine, grid, block, body = std::move(body)] {
    machine.as_device([&] { cuda::simt::simulate(grid.x, static_cast<int>(block.x), machine.schedule, body); });
  });
}

}  // namespace itop::emulated_cuda

namespace {

using itop::emulated_cuda::Machine;

/// The machine, for one call at a time.
struct Held {
  Machine& machine = Machine::instance();
  std::lock_guard<std::recursive_mutex> lock{machine.mutex};
  Machine* operator->() const { return &machine; }
};

}  // namespace

const char* cudaGetErrorString(cudaError_t error) {
  switch (error) {
    case cudaSuccess:
      return "no error";
    case cudaErrorMemoryAllocation:
      return "out of memory";
    case cudaErrorInsufficientDriver:
      return "CUDA driver version is insufficient for CUDA runtime version";
    case cudaErrorNoDevice:
      return "no CUDA-capable device is detected";
    default:
      return "another error";
  }
}

const char* cudaGetErrorName(cudaError_t error) {
  switch (error) {
    case cudaSuccess:
      return "cudaSuccess";
    case cudaErrorMemoryAllocation:
      return "cudaErrorMemoryAllocation";
    case cudaErrorInsufficientDriver:
      return "cudaErrorInsufficientDriver";
    case cudaErrorNoDevice:
      return "cudaErrorNoDevice";
    default:
      return "cudaErrorOther";
  }
}

cudaError_t cudaGetLastError() { return Held()->last_error(); }

cudaError_t cudaGetDeviceCount(int* count) {
  const Held machine;
  *count = machine->driver == cudaSuccess ? machine->num_devices : 0;
  if (machine->driver != cudaSuccess) return machine->answer("cudaGetDeviceCount", machine->driver);
  return machine->answer("cudaGetDeviceCount", machine->num_devices == 0 ? cudaErrorNoDevice : cudaSuccess);
}

cudaError_t cudaGetDevice(int* device) {
  const Held machine;
  *device = machine->current_device;
  return machine->answer("cudaGetDevice");
}

cudaError_t cudaSetDevice(int device) {
  const Held machine;
  if (device < 0 || device >= machine->num_devices) return machine->answer("cudaSetDevice", cudaErrorInvalidDevice);
  machine->current_device = device;
  return machine->answer("cudaSetDevice");
}

cudaError_t cudaMemPoolCreate(cudaMemPool_t* pool, const cudaMemPoolProps* properties) {
  const Held machine;
  if (properties->location.id >= machine->num_devices)
    return machine->answer("cudaMemPoolCreate", cudaErrorInvalidDevice);
  *pool = reinterpret_cast<cudaMemPool_t>(std::uintptr_t{1});
  return machine->answer("cudaMemPoolCreate");
}

cudaError_t cudaMemPoolSetAttribute(cudaMemPool_t, cudaMemPoolAttr, void*) {
  return Held()->answer("cudaMemPoolSetAttribute");
}

cudaError_t cudaMallocFromPoolAsync(void** pointer, std::size_t size, cudaMemPool_t, cudaStream_t stream) {
  const Held machine;
  if (const cudaError_t error = machine->answer("cudaMallocFromPoolAsync"); error != cudaSuccess) return error;
  return machine->allocate(pointer, size, stream);
}

cudaError_t cudaFreeAsync(void* pointer, cudaStream_t stream) {
  const Held machine;
  return machine->answer("cudaFreeAsync", machine->release(pointer, stream));
}

cudaError_t cudaMallocHost(void** pointer, std::size_t size) {
  const Held machine;
  if (machine->is_capturing()) return machine->answer("cudaMallocHost", cudaErrorStreamCaptureUnsupported);
  if (const cudaError_t error = machine->answer("cudaMallocHost"); error != cudaSuccess) return error;
  *pointer = ::operator new(size);
  return cudaSuccess;
}

cudaError_t cudaFreeHost(void* pointer) {
  ::operator delete(pointer);
  return Held()->answer("cudaFreeHost");
}

cudaError_t cudaMemcpyAsync(void* target, const void* source, std::size_t size, cudaMemcpyKind kind,
                            cudaStream_t stream) {
  const Held machine;
  const bool is_upload = kind == cudaMemcpyHostToDevice;
  const void* const on_device = is_upload ? target : source;
  if (!machine->is_inside_an_allocation(on_device, size))
    return machine->answer("cudaMemcpyAsync", cudaErrorInvalidValue);
  ++(is_upload ? machine->calls.uploads : machine->calls.downloads);
  if (const cudaError_t error = machine->answer("cudaMemcpyAsync"); error != cudaSuccess) return error;
  return machine->enqueue(
      stream, [=, &on = machine.machine] { on.as_device(on_device, [=] { std::memcpy(target, source, size); }); });
}

cudaError_t cudaMemsetAsync(void* target, int value, std::size_t size, cudaStream_t stream) {
  const Held machine;
  if (!machine->is_inside_an_allocation(target, size)) return machine->answer("cudaMemsetAsync", cudaErrorInvalidValue);
  ++machine->calls.memsets;
  if (const cudaError_t error = machine->answer("cudaMemsetAsync"); error != cudaSuccess) return error;
  return machine->enqueue(
      stream, [=, &on = machine.machine] { on.as_device(target, [=] { std::memset(target, value, size); }); });
}

cudaError_t cudaEventCreateWithFlags(cudaEvent_t* event, unsigned) {
  *event = new CUevent_st();
  return Held()->answer("cudaEventCreateWithFlags");
}

cudaError_t cudaEventDestroy(cudaEvent_t event) {
  delete event;
  return Held()->answer("cudaEventDestroy");
}

cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream) {
  const Held machine;
  return machine->answer("cudaEventRecord", machine->record(event, stream));
}

cudaError_t cudaEventSynchronize(cudaEvent_t event) {
  const Held machine;
  return machine->answer("cudaEventSynchronize", machine->wait_for(event));
}

cudaError_t cudaStreamCreateWithFlags(cudaStream_t* stream, unsigned) {
  const Held machine;
  *stream = machine->make_stream();
  return machine->answer("cudaStreamCreateWithFlags");
}

cudaError_t cudaStreamWaitEvent(cudaStream_t stream, cudaEvent_t event, unsigned) {
  const Held machine;
  ++machine->calls.stream_waits;
  return machine->answer("cudaStreamWaitEvent", machine->hold_back(stream, event));
}

cudaError_t cudaStreamSynchronize(cudaStream_t stream) {
  const Held machine;
  return machine->answer("cudaStreamSynchronize", machine->wait_for(stream));
}

cudaError_t cudaStreamIsCapturing(cudaStream_t stream, cudaStreamCaptureStatus* status) {
  const Held machine;
  *status = machine->is_capturing(stream) ? cudaStreamCaptureStatusActive : cudaStreamCaptureStatusNone;
  return machine->answer("cudaStreamIsCapturing");
}
