// Runs Classify on each golden image, and prints the label's name, the stored score and the runner-up.
#include <stdio.h>

#include "classify.h"
#include "golden.h"

namespace net = EDGEPRUNE_NAMESPACE;

int main() {
  for (int32_t image = 0; image < net::kGoldenImages; ++image) {
    const net::Frame frame = {net::kGoldenPixels[image], net::kImageSize, net::kImageSize, 0,
                              net::PixelFormat::kRgb888};
    net::Result result;
    const net::Status status = net::Classify(frame, &result);
    if (status != net::Status::kOk) return static_cast<int>(status);
    printf("%d|%s|%d|%d|%.9g\n", static_cast<int>(result.label), net::kLabels[result.label], result.stored,
           result.runner_up, static_cast<double>(result.score));
  }
  const net::Frame nothing = {nullptr, 96, 96, 0, net::PixelFormat::kRgb888};
  net::Result untouched;
  return net::Classify(nothing, &untouched) == net::Status::kFrame ? 0 : 99;
}
