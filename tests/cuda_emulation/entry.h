// What a library of emulated kernels shows to tests/emulated.py.

#pragma once

#include "emulation.h"

// The error of a launch, as the test gets it: null when all went well.
inline const char* report(cudaError_t error) {
  return error == cudaSuccess ? nullptr : emulation::state.message.c_str();
}

extern "C" {

// Whether the warps of a block run from the last to the first, and asynchronous copies arrive at
// once.
void emulation_order(int64_t backwards) { emulation::state.backwards = backwards != 0; }

// `bytes` of memory, filled with 0xff, directly before memory that no one may
// touch.
void* emulation_allocate(int64_t bytes) {
  size_t whole = 0;
  char* area = emulation::map_guarded(size_t(bytes), &whole);
  if (area) std::memset(area, emulation::kPoison, whole);
  return area ? area + whole - size_t(bytes) : nullptr;
}

void emulation_release(void* memory, int64_t bytes) {
  const size_t page = size_t(sysconf(_SC_PAGESIZE));
  const size_t whole = (size_t(bytes) + page - 1) / page * page;
  munmap(static_cast<char*>(memory) + bytes - whole - page, whole + 2 * page);
}
}
