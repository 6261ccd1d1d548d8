#include "cuda/cuda_backend.hpp"

#include "cuda/cuda_check.hpp"
#include "cuda/device_layout.hpp"
#include "cuda/launches.hpp"
#include "cuda/selection.hpp"
#include "cuda/stream_executor.hpp"

namespace itop::cuda {
namespace {

class DeviceWords final : public WordBuffer {
 public:
  DeviceWords(int device_index, DeviceMemory& memory, std::int64_t num_words, Contents contents, cudaStream_t stream)
      : device_index_(device_index), memory_(memory), stream_(stream), size_(num_words) {
    const std::int64_t num_bytes = num_words * static_cast<std::int64_t>(sizeof(Word));
    data_ = static_cast<Word*>(memory_.allocate(num_bytes, stream));
    if (contents == Contents::kUnspecified) return;
    const cudaError_t error = cudaMemsetAsync(data_, 0, static_cast<std::size_t>(num_bytes), stream);
    if (error != cudaSuccess) {
      memory_.release(data_, stream);
      check(error, "cudaMemsetAsync");
    }
  }
  ~DeviceWords() override {
    try {
      const DeviceGuard guard(device_index_);
      memory_.release(data_, stream_);
    } catch (const CudaError&) {
      // The context is gone, and the memory with it.
    }
  }
  DeviceWords(const DeviceWords&) = delete;
  DeviceWords& operator=(const DeviceWords&) = delete;

  Word* data() noexcept override { return data_; }
  std::int64_t size() const noexcept override { return size_; }

 private:
  int device_index_;
  DeviceMemory& memory_;
  cudaStream_t stream_;
  Word* data_ = nullptr;
  std::int64_t size_;
};

/// Makes the device current and the stream known to its memory.
class Call {
 public:
  Call(int device_index, DeviceMemory& memory, StreamHandle stream) : guard_(device_index), stream_(stream_of(stream)) {
    memory.note(stream_);
  }
  cudaStream_t stream() const noexcept { return stream_; }

 private:
  DeviceGuard guard_;
  cudaStream_t stream_;
};

DeviceMemory memory_of(int device_index) {
  const DeviceGuard guard(device_index);
  return DeviceMemory(device_index);
}

}  // namespace

CudaBackend::CudaBackend(int device_index) : device_index_(device_index), memory_(memory_of(device_index)) {}

std::unique_ptr<WordBuffer> CudaBackend::allocate(std::int64_t num_words, Contents contents, StreamHandle stream) {
  const Call call(device_index_, memory_, stream);
  return std::make_unique<DeviceWords>(device_index_, memory_, num_words, contents, call.stream());
}

void CudaBackend::copy_to_host(const Word* source, std::span<Word> target, StreamHandle stream) {
  if (target.empty()) return;
  const Call call(device_index_, memory_, stream);
  check(cudaMemcpyAsync(target.data(), source, target.size_bytes(), cudaMemcpyDeviceToHost, call.stream()),
        "cudaMemcpyAsync");
  check(cudaStreamSynchronize(call.stream()), "cudaStreamSynchronize");
}

void CudaBackend::copy_from_host(std::span<const Word> source, Word* target, StreamHandle stream) {
  if (source.empty()) return;
  const Call call(device_index_, memory_, stream);
  check(cudaMemcpyAsync(target, source.data(), source.size_bytes(), cudaMemcpyHostToDevice, call.stream()),
        "cudaMemcpyAsync");
  check(cudaStreamSynchronize(call.stream()), "cudaStreamSynchronize");  // the source may go away now
}

void CudaBackend::complement(std::span<const LayerComplement> layers, StreamHandle stream) {
  const Call call(device_index_, memory_, stream);
  launch_complement(layers, call.stream());
}

void CudaBackend::combine(BitOperation operation, const Word* a, const Word* b, Word* target, std::int64_t num_words,
                          StreamHandle stream) {
  const Call call(device_index_, memory_, stream);
  launch_combine(operation, a, b, target, num_words, call.stream());
}

std::vector<std::int64_t> CudaBackend::count(const Word* words, std::span<const std::int64_t> offsets,
                                             StreamHandle stream) {
  if (offsets.size() < 2) return {};
  const Call call(device_index_, memory_, stream);
  StreamExecutor executor(memory_, staging_pool_, call.stream());
  const std::size_t num_ranges = offsets.size() - 1;
  std::vector<std::int64_t> chunk_offsets{0};
  for (std::size_t i = 0; i < num_ranges; ++i) {
    chunk_offsets.push_back(chunk_offsets.back() + ceil_div(offsets[i + 1] - offsets[i], kChunkWords));
  }
  DeviceLayout layout;
  const auto words_begin = layout.table(offsets);
  const auto chunks_begin = layout.table(std::span<const std::int64_t>(chunk_offsets));
  const auto counts = layout.zeros<std::uint64_t>(static_cast<std::int64_t>(num_ranges));
  layout.materialise(executor);
  launch_count(words, layout.at(words_begin), layout.at(chunks_begin), chunk_offsets.back(),
               static_cast<int>(num_ranges), layout.at(counts), call.stream());
  std::vector<std::int64_t> result(num_ranges);
  executor.download(result.data(), layout.at(counts), static_cast<std::int64_t>(num_ranges * sizeof(std::int64_t)));
  return result;
}

void CudaBackend::unpack(const Word* words, std::uint8_t* bytes, std::int64_t numel, StreamHandle stream) {
  const Call call(device_index_, memory_, stream);
  launch_unpack(words, bytes, numel, call.stream());
}

void CudaBackend::pack(const std::uint8_t* bytes, Word* words, std::int64_t numel, StreamHandle stream) {
  const Call call(device_index_, memory_, stream);
  launch_pack(bytes, words, numel, call.stream());
}

void CudaBackend::select(std::span<const Selection> selections, Reduction& reduction, StreamHandle stream) {
  const Call call(device_index_, memory_, stream);
  StreamExecutor executor(memory_, staging_pool_, call.stream());
  cuda::select(selections, reduction, executor);
}

std::vector<LayerCounts> CudaBackend::commit(std::span<const LayerCommit> layers, const CommitOptions& options,
                                             StreamHandle stream) {
  if (layers.empty()) return {};
  const Call call(device_index_, memory_, stream);
  StreamExecutor executor(memory_, staging_pool_, call.stream());
  DeviceLayout layout;
  const auto num_counts = static_cast<std::int64_t>(layers.size()) * kCountPlaces * kCountFields;
  const auto counts = layout.zeros<std::uint64_t>(num_counts);
  layout.materialise(executor);
  const CommitPlan plan = commit_plan(layers, layout.at(counts));
  launch_commit(plan.zero_first, options, call.stream());
  launch_commit(plan.rows, options, call.stream());
  std::vector<std::uint64_t> result(static_cast<std::size_t>(num_counts));
  executor.download(result.data(), layout.at(counts), num_counts * static_cast<std::int64_t>(sizeof(std::uint64_t)));
  return layer_counts(result);
}

void CudaBackend::apply(std::span<const LayerApply> layers, StreamHandle stream) {
  const Call call(device_index_, memory_, stream);
  launch_apply(apply_rows(layers), call.stream());
}

}  // namespace itop::cuda
