// All kernels of the engine `candle` on CUDA.
#include "device.cuh"
#include "formats.cuh"
#include "attention.cuh"
#include "step.cuh"
#include "prompt.cuh"
#include "probe.cuh"

#define ALL_KERNELS(K)                                                                                                 \
    K(decode_step), K(head_step), K(embed_rows), K(norm_rows), K(widen), K(repack), K(multiply), K(add_parts), K(rotate_rows),       \
        K(attend_rows), K(flash_64), K(flash_128), K(read_all), K(copy_all), K(fill_words),         \
        K(peak_f16), K(peak_int8)
static_assert(sizeof(Work) == 72 && sizeof(Layer) == 200 && sizeof(Model) == 120 && sizeof(State) == 96, "as src/cuda/model.rs says");
