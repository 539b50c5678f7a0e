#include "preprocess.h"

#include "model_settings.h"

namespace edgeprune_person96_b_457ed2f3 {
namespace {

// Sums of weights times 255 stay below 2^32 within these.
constexpr int32_t kMaxSide = 4096;
static_assert(kImageSize >= 8 && kImageSize <= 1024, "outside the range that 32 bits are enough for");

struct Pixel {
  uint32_t channel[kChannels];
};

int32_t PixelBytes(PixelFormat format) {
  switch (format) {
    case PixelFormat::kRgb888:
    case PixelFormat::kBgr888:
      return 3;
    case PixelFormat::kRgb565LittleEndian:
    case PixelFormat::kRgb565BigEndian:
      return 2;
    case PixelFormat::kGrey8:
      return 1;
  }
  return 0;
}

inline Pixel FromRgb565(uint32_t packed) {
  const uint32_t red = packed >> 11, green = (packed >> 5) & 63u, blue = packed & 31u;
  return {{red << 3 | red >> 2, green << 2 | green >> 4, blue << 3 | blue >> 2}};
}

inline Pixel ReadPixel(const uint8_t* bytes, PixelFormat format) {
  switch (format) {
    case PixelFormat::kRgb888:
      return {{bytes[0], bytes[1], bytes[2]}};
    case PixelFormat::kBgr888:
      return {{bytes[2], bytes[1], bytes[0]}};
    case PixelFormat::kRgb565LittleEndian:
      return FromRgb565(static_cast<uint32_t>(bytes[1]) << 8 | bytes[0]);
    case PixelFormat::kRgb565BigEndian:
      return FromRgb565(static_cast<uint32_t>(bytes[0]) << 8 | bytes[1]);
    case PixelFormat::kGrey8:
      return {{bytes[0], bytes[0], bytes[0]}};
  }
  return {{0, 0, 0}};
}

// Rounds down; before C++20, a negative number's >> is the compiler's choice.
constexpr int32_t FloorShift(int32_t value, int shift) {
  return value >= 0 ? value >> shift : ~(~value >> shift);
}
static_assert(FloorShift(-1, 4) == -1 && FloorShift(-16, 4) == -1 && FloorShift(-17, 4) == -2, "rounds down");

inline int8_t Quantise(uint32_t pixel, int channel) {
  const int32_t product = static_cast<int32_t>(pixel) * kPixelMultiplier[channel] + kPixelOffset[channel];
  const int32_t stored = FloorShift(product, kPixelShift);
  return static_cast<int8_t>(stored < -128 ? -128 : stored > 127 ? 127 : stored);
}

// The pixels of one axis that count for one pixel of the result. Pixel i has the weight
// reach - |(2 i + 1) kImageSize - centre|: a triangle as wide as the reduction asks for.
struct Taps {
  int32_t first, end;
  int32_t centre, reach;

  Taps(int32_t length, int32_t position)
      : centre((2 * position + 1) * length), reach(2 * (length > kImageSize ? length : kImageSize)) {
    const int32_t low = centre - reach - kImageSize;
    first = low < 0 ? 0 : low / (2 * kImageSize) + 1;
    end = (centre + reach + kImageSize - 1) / (2 * kImageSize);
    if (end > length) end = length;
  }

  uint32_t Weight(int32_t index) const {
    const int32_t distance = (2 * index + 1) * kImageSize - centre;
    return static_cast<uint32_t>(reach - (distance < 0 ? -distance : distance));
  }
};

inline void Accumulate(const Pixel& pixel, uint32_t weight, Pixel* sum) {
  for (int c = 0; c < kChannels; ++c) sum->channel[c] += weight * pixel.channel[c];
}

inline void Divide(uint32_t weight, Pixel* sum) {
  for (int c = 0; c < kChannels; ++c) sum->channel[c] = (sum->channel[c] + weight / 2) / weight;
}

// One pixel of the result: along each row first, then down the rounded values.
Pixel Resample(const Frame& frame, int32_t stride, int32_t step, const Taps& across, const Taps& down) {
  Pixel column = {{0, 0, 0}};
  uint32_t column_weight = 0;
  for (int32_t y = down.first; y < down.end; ++y) {
    const uint8_t* bytes = frame.pixels + static_cast<int64_t>(y) * stride + across.first * step;
    Pixel row = {{0, 0, 0}};
    uint32_t row_weight = 0;
    for (int32_t x = across.first; x < across.end; ++x, bytes += step) {
      const uint32_t weight = across.Weight(x);
      Accumulate(ReadPixel(bytes, frame.format), weight, &row);
      row_weight += weight;
    }
    Divide(row_weight, &row);
    const uint32_t weight = down.Weight(y);
    Accumulate(row, weight, &column);
    column_weight += weight;
  }
  Divide(column_weight, &column);
  return column;
}

}  // namespace

bool PreprocessFrame(const Frame& frame, int8_t* input) {
  const int32_t step = PixelBytes(frame.format);
  if (frame.pixels == nullptr || input == nullptr || step == 0) return false;
  if (frame.width < 1 || frame.width > kMaxSide || frame.height < 1 || frame.height > kMaxSide) return false;
  const int32_t stride = frame.stride_bytes == 0 ? frame.width * step : frame.stride_bytes;
  if (stride < frame.width * step) return false;
  const bool fits = frame.width == kImageSize && frame.height == kImageSize;
  for (int32_t y = 0; y < kImageSize; ++y) {
    const Taps down(frame.height, y);
    for (int32_t x = 0; x < kImageSize; ++x) {
      const Pixel pixel = fits ? ReadPixel(frame.pixels + static_cast<int64_t>(y) * stride + x * step, frame.format)
                               : Resample(frame, stride, step, Taps(frame.width, x), down);
      const int32_t place = kRotate180 ? kImageSize * kImageSize - 1 - (y * kImageSize + x) : y * kImageSize + x;
      for (int c = 0; c < kChannels; ++c) input[place * kChannels + c] = Quantise(pixel.channel[c], c);
    }
  }
  return true;
}

}  // namespace edgeprune_person96_b_457ed2f3
