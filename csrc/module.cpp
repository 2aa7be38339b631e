// The Python module: loading it registers the operations; it tells how it was built and which
// instruction set runs.

#include <pybind11/pybind11.h>
#include <pybind11/stl.h>
#include <torch/headeronly/version.h>

#include <string>

#include "check.h"

namespace py = pybind11;

PYBIND11_MODULE(_C, module) {
  module.doc() = "Compiled kernels of freqdiff.";

  module.def(
      "build_info",
      [] {
        py::dict info;
        info["compiler"] = __VERSION__;
        info["torch"] = std::to_string(TORCH_VERSION_MAJOR) + "." +
                        std::to_string(TORCH_VERSION_MINOR) + "." +
                        std::to_string(TORCH_VERSION_PATCH);
#if defined(FREQDIFF_CUDA)
        info["cuda"] = true;
#else
        info["cuda"] = false;
#endif
        return info;
      },
      "Compiler, version of the torch headers, and whether CUDA kernels are inside.");
  module.def(
      "cpu_levels",
      [] {
        const auto names = freqdiff::levels();
        return std::vector<std::string>(names.begin(), names.end());
      },
      "Instruction sets that this processor can run, slowest first.");
  module.def(
      "cpu_level", [] { return std::string(freqdiff::kernels().name); },
      "The instruction set in use.");
  module.def(
      "set_cpu_level",
      [](const std::string& name) {
        if (!freqdiff::set_level(name.c_str())) {
          throw py::value_error("level is '" + name + "', expected one of cpu_levels()");
        }
      },
      py::arg("name"), "Use this instruction set from now on, in all threads.");
  module.def("release_memory", &freqdiff::release_memory,
             "Free the memory that is kept for the next large result on the CPU.");
}
