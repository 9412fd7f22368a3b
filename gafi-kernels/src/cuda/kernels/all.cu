// All kernels, in every variant that is launched: `add_bf16_4` adds bf16 maps with four channels per thread.
//
// One source for three compilers: NVRTC (after `cuda/mod.rs` has replaced the lines `#include "..."`), nvcc, and a host's
// C++ compiler behind a shim that runs the threads of a block in turns. So: no headers, no warp shuffles, no atomics, only
// shared memory and `__syncthreads()` that all threads of a block reach. Sums have a fixed order.

#include "common.cuh"

#define T float
#define V 1
#define K(name) name##_f32_1
#include "maps.cuh"
#include "norm.cuh"
#undef V
#undef K
#define V 4
#define K(name) name##_f32_4
#include "maps.cuh"
#include "norm.cuh"
#undef T
#undef V
#undef K

#define T bf16
#define V 1
#define K(name) name##_bf16_1
#include "maps.cuh"
#include "norm.cuh"
#undef V
#undef K
#define V 4
#define K(name) name##_bf16_4
#include "maps.cuh"
#include "norm.cuh"
#undef T
#undef V
#undef K

#include "fold.cuh"
#include "train.cuh"
