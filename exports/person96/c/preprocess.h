// From a camera frame to the input tensor, in whole numbers: no floating point, no heap, no buffer.
#ifndef EDGEPRUNE_PERSON96_B_457ED2F3_PREPROCESS_H_
#define EDGEPRUNE_PERSON96_B_457ED2F3_PREPROCESS_H_

#include <stdint.h>

namespace edgeprune_person96_b_457ed2f3 {

// How a camera stores a pixel. RGB565 is red in bits 15 to 11, green in 10 to 5, blue in 4 to 0 of 16 bits.
enum class PixelFormat : int32_t {
  kRgb888 = 0,
  kBgr888 = 1,
  kRgb565LittleEndian = 2,  // low byte first: an array of uint16_t on a Cortex-M
  kRgb565BigEndian = 3,     // high byte first: as most sensors send it
  kGrey8 = 4,
};

// A frame in memory, upright, first row first. Sides from 1 to 4096 pixels.
struct Frame {
  const uint8_t* pixels;
  int32_t width;
  int32_t height;
  // From one row to the next; 0 where rows follow each other without a gap.
  int32_t stride_bytes;
  PixelFormat format;
};

// Resizes the whole frame to kImageSize x kImageSize, rotates it where kRotate180 says so, and quantises it into
// `input`, kInputBytes long. A frame of that size already is not resampled. Returns false, and leaves `input` alone,
// when the frame has no pixels, a side outside 1 to 4096, rows shorter than its width, or an unknown format.
bool PreprocessFrame(const Frame& frame, int8_t* input);

}  // namespace edgeprune_person96_b_457ed2f3

#endif  // EDGEPRUNE_PERSON96_B_457ED2F3_PREPROCESS_H_
