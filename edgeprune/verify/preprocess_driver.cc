// Runs the preprocessing of a bundle's c/ on frames from standard input, for the gate that compares it with Python's.
// A frame is five 32-bit numbers in this machine's order (format, width, height, bytes from row to row, bytes in all)
// and the bytes; the answer is kInputBytes on standard output.
#include <stdio.h>
#include <vector>

#include "model_settings.h"
#include "preprocess.h"

namespace net = EDGEPRUNE_NAMESPACE;

int main() {
  int32_t header[5];
  std::vector<uint8_t> pixels;
  std::vector<int8_t> input(net::kInputBytes);
  while (fread(header, sizeof header[0], 5, stdin) == 5) {
    pixels.resize(static_cast<size_t>(header[4]));
    if (fread(pixels.data(), 1, pixels.size(), stdin) != pixels.size()) return 1;
    const net::Frame frame = {pixels.data(), header[1], header[2], header[3], static_cast<net::PixelFormat>(header[0])};
    if (!net::PreprocessFrame(frame, input.data())) return 2;
    if (fwrite(input.data(), 1, input.size(), stdout) != input.size()) return 3;
  }
  return 0;
}
