/* Forced into every C++ file of llama.cpp when gcc <= 13.2.0 compiles for a CPU with AMX (see build.py).
 *
 * Those compilers declare `_tile_loadconfig` as inline assembly that reads one pointer (8 bytes) of the 64-byte tile
 * configuration. The optimizer may then drop the stores to the other 56 bytes, the tiles keep no rows and columns, and
 * the first quantized matrix product dies. Here the operand names all 64 bytes, so every store happens before.
 *
 * Only the files compiled with AMX include the intrinsics: in all others this header is empty and costs nothing.
 */
#if defined(__AMX_TILE__) && defined(__GNUC__) && !defined(__clang__)
#include <immintrin.h>

#undef _tile_loadconfig
#define _tile_loadconfig(config) \
    __asm__ volatile("ldtilecfg\t%X0" : : "m"(*reinterpret_cast<const unsigned char(*)[64]>(config)))
#endif
