// Runs CUDA device code on the CPU, for tests: one fiber per thread, the blocks one after another.
//
// It stands in for the headers of CUDA where the compiler is not nvcc (see csrc/launch.h). What a
// GPU would not forgive, or would forgive by luck alone, fails here with a message:
//  * barriers and warp operations that some threads miss, or that meet at different lines;
//  * accesses beyond the ends of dynamic shared memory or of `guarded_memory`;
//  * misaligned vector accesses and overruns of arrays (compile with -fsanitize=alignment,bounds
//    -fsanitize-undefined-trap-on-error);
//  * use of uninitialised dynamic shared memory: it holds NaN or -1;
//  * use of asynchronous copies before the wait, or of what they overwrite after they began.
// The last shows as a wrong result, and so does a missing barrier, in at least one of two orders:
// from the first warp to the last, copies arriving at the wait, or backwards, copies arriving at
// once. Run both. Every warp runs as far as it can before the next. Statically declared shared
// memory is neither guarded nor poisoned: prefer dynamic.

#pragma once

#include <setjmp.h>
#include <signal.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <cstring>
#include <functional>
#include <string>
#include <vector>

#include "cuda_types.h"

#if !defined(__x86_64__) || defined(EMULATION_UCONTEXT)
#include <ucontext.h>
#endif

namespace emulation {

#if defined(__x86_64__) && !defined(EMULATION_UCONTEXT)
using Context = void*;
// Saves what a call must preserve on the stack of `from`, and goes on with that
// of `to`.
extern "C" void emulation_switch(Context* from, Context* to);
asm(R"(
.text
.weak emulation_switch
.type emulation_switch, @function
emulation_switch:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq (%rsi), %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
.size emulation_switch, .-emulation_switch
)");
inline void prepare(Context& context, char* stack, size_t bytes, void (*entry)()) {
  void** top = reinterpret_cast<void**>(stack + bytes);
  *--top = nullptr;
  *--top = reinterpret_cast<void*>(entry);
  context = top - 6;
}
#else
using Context = ucontext_t;
inline void emulation_switch(Context* from, Context* to) { swapcontext(from, to); }
inline void prepare(Context& context, char* stack, size_t bytes, void (*entry)()) {
  getcontext(&context);
  context.uc_stack.ss_sp = stack;
  context.uc_stack.ss_size = bytes;
  makecontext(&context, entry, 0);
}
#endif

struct Copy {
  void* target;
  const void* source;  // null: zeros
  int bytes;
  int group;
};

struct Fiber {
  Context context{};
  uint3 thread{};
  int index = 0;
  bool done = false;
  bool waiting = false;
  const char* what = "";
  int line = 0;
  int group = 0;
  std::vector<Copy> copies;
};

// A meeting of some lanes of a warp. The lanes leave a pointer to what they
// bring; the last to come does the work for all.
struct Meeting {
  uint32_t mask = 0;
  uint32_t arrived = 0;
  const void* work = nullptr;
  int line = 0;
  void* lanes[32] = {};
};

constexpr size_t kStack = 256 << 10;
constexpr size_t kShared = 227 << 10;  // What a block can have on sm_90.
constexpr size_t kMaxThreads = 1024;
constexpr unsigned char kPoison = 0xff;

inline struct State {
  std::vector<Fiber> fibers;
  std::vector<Meeting> meetings;  // 32 per warp, found by the lowest lane of the mask
  Fiber* current = nullptr;
  Context scheduler{};
  std::function<void()> kernel;
  dim3 grid, block;
  uint3 block_index{};
  int barrier_count = 0, barrier_line = 0;
  char* stacks = nullptr;
  char* shared_area = nullptr;
  size_t shared_area_bytes = 0;
  char* shared = nullptr;
  bool backwards = false;
  sigjmp_buf escape;
  std::string message;
} state;

[[noreturn]] inline void fail(const std::string& message) {
  char where[128] = "";
  if (const Fiber* fiber = state.current) {
    std::snprintf(where, sizeof(where),
                  "thread (%u, %u, %u) of block (%u, %u, %u): ", fiber->thread.x, fiber->thread.y,
                  fiber->thread.z, state.block_index.x, state.block_index.y, state.block_index.z);
  }
  state.message = where + message;
  siglongjmp(state.escape, 1);
}

inline void on_signal(int signal, siginfo_t* info, void*) {
  char text[128];
  const char* address = static_cast<char*>(info->si_addr);
  if (signal == SIGILL || signal == SIGTRAP) {
    fail("misaligned access or overrun of an array");
  } else if (address >= state.shared_area - kStack &&
             address < state.shared_area + state.shared_area_bytes + kStack) {
    std::snprintf(text, sizeof(text), "access beyond shared memory, offset %ld",
                  long(address - state.shared));
  } else {
    std::snprintf(text, sizeof(text), "invalid or misaligned access, signal %d", signal);
  }
  fail(text);
}

// Whole pages between inaccessible ones; null where there is no memory.
inline char* map_guarded(size_t bytes, size_t* mapped = nullptr) {
  const size_t page = size_t(sysconf(_SC_PAGESIZE));
  const size_t whole = (bytes + page - 1) / page * page;
  char* area = static_cast<char*>(mmap(nullptr, whole + 2 * page, PROT_NONE,
                                       MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0));
  if (area == MAP_FAILED || mprotect(area + page, whole, PROT_READ | PROT_WRITE)) return nullptr;
  if (mapped) *mapped = whole;
  return area + page;
}

inline void yield() { emulation_switch(&state.current->context, &state.scheduler); }

inline void wait(const char* what, int line) {
  Fiber& fiber = *state.current;
  fiber.what = what;
  fiber.line = line;
  fiber.waiting = true;
  while (fiber.waiting) yield();
}

inline void barrier(int line) {
  if (state.barrier_count++ == 0) state.barrier_line = line;
  if (state.barrier_line != line) {
    fail("waits in __syncthreads() of line " + std::to_string(line) + ", others in that of line " +
         std::to_string(state.barrier_line));
  }
  if (size_t(state.barrier_count) < state.fibers.size()) {
    return wait("__syncthreads()", line);
  }
  state.barrier_count = 0;
  for (Fiber& fiber : state.fibers) fiber.waiting = false;
}

using Work = void (*)(uint32_t mask, void** lanes);

inline int lane() { return state.current->index % 32; }

// Does `work` once for all lanes of the mask, when the last of them has come.
inline void meet(uint32_t mask, void* mine, Work work, const char* what, int line) {
  const int self = lane(), first = state.current->index - self;
  if (!(mask >> self & 1)) fail(std::string("is not in its own mask of ") + what);
  if (size_t(first) + 32 > state.fibers.size()) {
    const uint32_t present = ~0u >> (32 - (state.fibers.size() - first));
    if (mask == ~0u) mask = present;
  }
  Meeting& meeting = state.meetings[size_t(first + __builtin_ctz(mask))];
  if (!meeting.arrived) {
    meeting.mask = mask;
    meeting.work = reinterpret_cast<const void*>(work);
    meeting.line = line;
  } else if (meeting.mask != mask || meeting.line != line ||
             meeting.work != reinterpret_cast<const void*>(work)) {
    fail(std::string("calls ") + what + " in line " + std::to_string(line) +
         ", other lanes of its warp are in line " + std::to_string(meeting.line));
  }
  meeting.lanes[self] = mine;
  meeting.arrived |= 1u << self;
  if (meeting.arrived != mask) return wait(what, line);
  work(mask, meeting.lanes);
  meeting.arrived = 0;
  for (int other = 0; other < 32; ++other) {
    if (mask >> other & 1) state.fibers[size_t(first + other)].waiting = false;
  }
}

inline void fiber_main() {
  state.kernel();
  state.current->done = true;
  yield();
}

// Lets the threads [begin, end) of a warp run until each waits; how many could run. Adds to `done`
// those that left.
inline size_t run_warp(size_t begin, size_t end, size_t& done) {
  size_t ran = 0;
  for (size_t i = begin; i < end; ++i) {
    Fiber& fiber = state.fibers[state.backwards ? begin + end - 1 - i : i];
    if (fiber.done || fiber.waiting) continue;
    state.current = &fiber;
    emulation_switch(&state.scheduler, &fiber.context);
    done += fiber.done;
    ++ran;
  }
  return ran;
}

inline void run_block(size_t shared_bytes) {
  const size_t count = size_t(state.block.x) * state.block.y * state.block.z;
  std::memset(state.shared_area, kPoison, state.shared_area_bytes);
  state.shared = state.shared_area + state.shared_area_bytes - (shared_bytes + 15) / 16 * 16;
  state.fibers.assign(count, Fiber{});
  state.meetings.assign((count + 31) / 32 * 32, Meeting{});
  state.barrier_count = 0;
  for (size_t i = 0; i < count; ++i) {
    Fiber& fiber = state.fibers[i];
    fiber.index = int(i);
    fiber.thread = {unsigned(i) % state.block.x, unsigned(i) / state.block.x % state.block.y,
                    unsigned(i) / (state.block.x * state.block.y)};
    prepare(fiber.context, state.stacks + i * kStack, kStack, fiber_main);
  }
  for (size_t done = 0; done < count;) {
    bool progress = false;
    const size_t warps = (count + 31) / 32;
    for (size_t turn = 0; turn < warps; ++turn) {
      const size_t warp = state.backwards ? warps - 1 - turn : turn;
      while (run_warp(warp * 32, std::min(count, warp * 32 + 32), done)) progress = true;
    }
    if (progress) continue;
    for (Fiber& fiber : state.fibers) {
      if (fiber.done) continue;
      state.current = &fiber;
      fail("waits forever in " + std::string(fiber.what) + " of line " +
           std::to_string(fiber.line) + "; " + std::to_string(done) + " of " +
           std::to_string(count) + " threads have left");
    }
  }
  state.current = nullptr;
  for (const char* byte = state.shared_area; byte < state.shared; ++byte) {
    if (*byte != char(kPoison)) fail("something was written before shared memory");
  }
}

inline cudaError_t run(dim3 grid, dim3 block, size_t shared_bytes, std::function<void()> kernel) {
  const size_t threads = size_t(block.x) * block.y * block.z;
  if (!threads || threads > kMaxThreads || !grid.x || !grid.y || !grid.z || grid.y > 65535 ||
      grid.z > 65535 || shared_bytes > kShared) {
    state.message = "invalid configuration of a launch";
    return cudaErrorInvalidConfiguration;
  }
  if (!state.stacks) {
    state.stacks = map_guarded(kMaxThreads * kStack);
    state.shared_area = map_guarded(kShared + (16 << 10), &state.shared_area_bytes);
  }
  if (!state.stacks || !state.shared_area) {
    state.message = "no memory for the emulation";
    return cudaErrorMemoryAllocation;
  }
  state.kernel = std::move(kernel);
  state.grid = grid;
  state.block = block;
  state.current = nullptr;

  static char signal_stack[64 << 10];
  stack_t alternative{}, previous_stack{};
  alternative.ss_sp = signal_stack;
  alternative.ss_size = sizeof(signal_stack);
  sigaltstack(&alternative, &previous_stack);
  static const int signals[] = {SIGSEGV, SIGBUS, SIGILL, SIGFPE, SIGTRAP};
  static struct sigaction previous[5];
  struct sigaction action{};
  action.sa_sigaction = on_signal;
  action.sa_flags = SA_SIGINFO | SA_ONSTACK | SA_NODEFER;
  for (int i = 0; i < 5; ++i) sigaction(signals[i], &action, &previous[i]);
  const bool failed = sigsetjmp(state.escape, 1);
  if (!failed) {
    for (unsigned z = 0; z < grid.z; ++z) {
      for (unsigned y = 0; y < grid.y; ++y) {
        for (unsigned x = 0; x < grid.x; ++x) {
          state.block_index = {x, y, z};
          run_block(shared_bytes);
        }
      }
    }
  }
  for (int i = 0; i < 5; ++i) sigaction(signals[i], &previous[i], nullptr);
  sigaltstack(&previous_stack, nullptr);
  state.current = nullptr;
  return failed ? cudaErrorLaunchFailure : cudaSuccess;
}

}  // namespace emulation

#define threadIdx (emulation::state.current->thread)
#define blockIdx (emulation::state.block_index)
#define blockDim (emulation::state.block)
#define gridDim (emulation::state.grid)

inline void __syncthreads(int line = __builtin_LINE()) { emulation::barrier(line); }

#include "warp.h"
