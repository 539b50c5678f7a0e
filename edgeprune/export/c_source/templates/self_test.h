// Does this firmware, on this device, do what was proved when the bundle was made?
#ifndef @GUARD@_SELF_TEST_H_
#define @GUARD@_SELF_TEST_H_

#include <stdint.h>

#include "classify.h"

namespace @namespace@ {

// Is told of the first failure: which golden image (-1: none), which element of its input or output, and both values.
using SelfTestHook = void (*)(Status status, int32_t image, int32_t element, int32_t found, int32_t expected);

// Returns 0 only when the model and its tensors are those of model_settings.h, the arena in use is at most kArenaBytes,
// preprocessing gives every golden input byte for byte, and the network every golden output within the tolerance.
// Otherwise the Status. Prints nothing; runs the network kGoldenImages times.
int RunSelfTest(SelfTestHook hook = nullptr);

}  // namespace @namespace@

#endif  // @GUARD@_SELF_TEST_H_
