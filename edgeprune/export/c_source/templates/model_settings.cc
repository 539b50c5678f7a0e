#include "model_settings.h"

namespace @namespace@ {

const char* const kLabels[kClasses] = {
@labels@
};

}  // namespace @namespace@
