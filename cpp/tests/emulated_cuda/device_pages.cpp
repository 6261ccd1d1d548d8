#include "emulated_cuda/device_pages.hpp"

#include <signal.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <new>

namespace itop::emulated_cuda {
namespace {

constexpr std::byte kAround{0xC5};

std::size_t page_size() {
  static const auto size = static_cast<std::size_t>(sysconf(_SC_PAGESIZE));
  return size;
}

std::size_t round_up(std::size_t size, std::size_t multiple) { return (size + multiple - 1) / multiple * multiple; }

#ifndef __SANITIZE_ADDRESS__
/// Says what a segmentation fault may mean here, and lets it happen again.
void explain(int signal_number) {
  static constexpr char text[] =
      "emulated CUDA: was memory of the device touched by the host, past its end, or after it was freed?\n";
  static_cast<void>(!write(STDERR_FILENO, text, sizeof(text) - 1));
  signal(signal_number, SIG_DFL);
}

const bool is_explained = signal(SIGSEGV, explain) != SIG_ERR;
#endif

}  // namespace

DevicePages::DevicePages(std::size_t size, unsigned char content)
    : size_(size), num_mapped_(std::max(round_up(size, page_size()), page_size())) {
  void* const mapped =
      mmap(nullptr, num_mapped_ + 2 * page_size(), PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (mapped == MAP_FAILED) throw std::bad_alloc();
  pages_ = static_cast<std::byte*>(mapped) + page_size();
  begin_ = pages_ + num_mapped_ - round_up(size, 16);
  open();
  std::fill_n(pages_, num_mapped_, kAround);
  std::memset(begin_, content, size);
  close();
}

DevicePages::~DevicePages() { munmap(pages_ - page_size(), num_mapped_ + 2 * page_size()); }

void DevicePages::open() const {
  if (mprotect(pages_, num_mapped_, PROT_READ | PROT_WRITE) != 0) throw std::bad_alloc();
}

void DevicePages::close() const {
  if (mprotect(pages_, num_mapped_, PROT_NONE) != 0) throw std::bad_alloc();
}

bool DevicePages::is_intact() const {
  const auto is_around = [](std::byte byte) { return byte == kAround; };
  open();
  const bool intact =
      std::all_of(pages_, begin_, is_around) && std::all_of(begin_ + size_, pages_ + num_mapped_, is_around);
  close();
  return intact;
}

}  // namespace itop::emulated_cuda
