// Runs the kernels on a host without a GPU, for tests. The threads of a block are fibers that run in turns from one
// `__syncthreads()` to the next, alternately first to last and last to first, which reveals missing barriers. Blocks run one
// after the other, so `__shared__` can be `static`; each block finds NaN there. The compiler's sanitisers turn
// out-of-bounds indices and misaligned packs into traps, which end the launch. Only one launch can run at a time.
//
//     c++ -std=c++17 -O1 -shared -fPIC -fsanitize=bounds,alignment -fsanitize-undefined-trap-on-error
//         -o emulate.so emulate.cpp

#include <cmath>
#include <csignal>
#include <cstdlib>
#include <cstring>
#include <string>
#include <ucontext.h>
#include <unordered_map>
#include <vector>

struct Index {
    unsigned x, y, z;
};

static Index threadIdx, blockIdx, blockDim, gridDim;

static void barrier();

static float __uint_as_float(unsigned bits) {
    float x;
    std::memcpy(&x, &bits, sizeof x);
    return x;
}

static float __int_as_float(unsigned bits) {
    return __uint_as_float(bits);
}

static unsigned __float_as_uint(float x) {
    unsigned bits;
    std::memcpy(&bits, &x, sizeof bits);
    return bits;
}

// Hidden, as some kernels have the names of C library functions.
#define __global__ __attribute__((visibility("hidden")))
#define __device__
#define __grid_constant__
// A separate section, whose bounds the linker provides.
#define __shared__ static __attribute__((section("shared")))
extern "C" __attribute__((visibility("hidden"))) char __start_shared[], __stop_shared[];
#define __syncthreads barrier

#include "kernels/all.cu"

static const size_t STACK = 64 * 1024;

static ucontext_t scheduler;
static std::vector<ucontext_t> fibers;
static std::vector<bool> done;
static size_t current;
static volatile bool trap;
static void (*kernel)(void**);
static void** arguments;

static void barrier() {
    Index thread = threadIdx;
    swapcontext(&fibers[current], &scheduler);
    threadIdx = thread;
}

// Afterwards the fiber never runs again.
static void trapped(int) {
    trap = true;
    setcontext(&scheduler);
}

static void fiber() {
    kernel(arguments);
    done[current] = true;
}

// Calls a kernel with arguments given by address, like cuLaunchKernel.
template <auto kernel> struct Call;

template <typename... A, void (*kernel)(A...)> struct Call<kernel> {
    template <size_t... I> static void unpack(void** args, std::index_sequence<I...>) {
        kernel(*(std::remove_const_t<A>*)args[I]...);
    }
    static void run(void** args) {
        unpack(args, std::index_sequence_for<A...>());
    }
};

#define ONE(name) {#name, Call<name>::run},
#define TYPED(name) ONE(name##_f32_1) ONE(name##_bf16_1)
#define ALL(name) ONE(name##_f32_1) ONE(name##_f32_4) ONE(name##_bf16_1) ONE(name##_bf16_4)

static const std::unordered_map<std::string, void (*)(void**)> KERNELS = {
    ALL(load) ALL(store) ALL(apply) ALL(add) ALL(accumulate) ALL(add_bias) ALL(mask) ALL(gather2x2) ALL(spread2x2)
    ALL(max_pool) ALL(max_pool_gradient) ALL(subsample) ALL(subsample_gradient) ALL(spread)
    TYPED(pack_weights) TYPED(unpack_weights) TYPED(softmax) TYPED(softmax_gradient)
    ALL(moments) ALL(sums) ALL(norm_sums) ALL(norm_dx) TYPED(fold_moments)
    ONE(fold_norm) ONE(fold_sums) ONE(norm_totals) ONE(affine)
    ONE(cross_entropy) ONE(cross_entropy_gradient) ONE(mean) ONE(tanh_of) ONE(tanh_gradient)
    ONE(sgd) ONE(adam) ONE(average)
    ONE(matrix_times) ONE(transposed_times) ONE(normalise) ONE(dot) ONE(divide) ONE(divide_gradient)
    ONE(spectral_rest)
};

static int blocks(const unsigned* grid, const unsigned* block) {
    gridDim = {grid[0], grid[1], grid[2]};
    blockDim = {block[0], block[1], 1};
    size_t threads = (size_t)block[0] * block[1];
    static std::vector<char> stacks;
    if (stacks.size() < threads * STACK) stacks.resize(threads * STACK);
    fibers.resize(threads);
    // Blocks and launches alternate the first direction, as a single one hides half of the missing barriers.
    static size_t launch = 0;
    ++launch;
    size_t count = (size_t)grid[0] * grid[1] * grid[2];
    for (size_t b = 0; b < count; ++b) {
        std::memset(__start_shared, 0xff, __stop_shared - __start_shared);
        blockIdx = {(unsigned)(b % grid[0]), (unsigned)(b / grid[0] % grid[1]), (unsigned)(b / grid[0] / grid[1])};
        done.assign(threads, false);
        for (size_t t = 0; t < threads; ++t) {
            getcontext(&fibers[t]);
            fibers[t].uc_stack.ss_sp = &stacks[t * STACK];
            fibers[t].uc_stack.ss_size = STACK;
            fibers[t].uc_link = &scheduler;
            makecontext(&fibers[t], fiber, 0);
        }
        for (size_t round = 0, ended = 0; ended < threads; ++round) {
            ended = 0;
            for (size_t i = 0; i < threads; ++i) {
                current = (round + b + launch) % 2 ? threads - 1 - i : i;
                if (done[current]) return 2;
                threadIdx = {(unsigned)(current % block[0]), (unsigned)(current / block[0]), 0};
                swapcontext(&scheduler, &fibers[current]);
                if (trap) return 3;
                ended += done[current];
            }
            if (ended != 0 && ended != threads) return 2;
        }
    }
    return 0;
}

// Returns 0, or 1 for an unknown kernel, 2 for a barrier that not all threads of a block reach, 3 for a trap.
extern "C" int emulate(const char* name, const unsigned* grid, const unsigned* block, void** args) {
    auto found = KERNELS.find(name);
    if (found == KERNELS.end()) return 1;
    kernel = found->second;
    arguments = args;
    trap = false;
    // A trap is an illegal instruction on x86, a breakpoint on Arm.
    struct sigaction ours = {}, ill, trace;
    ours.sa_handler = trapped;
    sigaction(SIGILL, &ours, &ill);
    sigaction(SIGTRAP, &ours, &trace);
    int code = blocks(grid, block);
    sigaction(SIGILL, &ill, nullptr);
    sigaction(SIGTRAP, &trace, nullptr);
    return code;
}
