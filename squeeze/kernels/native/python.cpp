// The same library as a module of Python, for what is called so often that ctypes takes longer than the work itself.
// Empty where Python's headers are missing: squeeze/kernels/native.py then goes through ctypes.
#if __has_include(<Python.h>)
#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include "gated.h"

extern "C" int64_t squeeze_gated_conv2d(const squeeze::GatedSite*, const float*, float*, const int64_t*, int64_t, int64_t,
                                        int64_t);

namespace {

void* pointer(PyObject* number) { return number == Py_None ? nullptr : PyLong_AsVoidPtr(number); }

// As squeeze_gated_conv2d, addresses as numbers.
PyObject* gated(PyObject*, PyObject* const* given, Py_ssize_t count) {
    if (count != 7) return PyErr_Format(PyExc_TypeError, "gated: must have 7 arguments, got %zd", count);
    const auto* site = static_cast<const squeeze::GatedSite*>(pointer(given[0]));
    const auto* input = static_cast<const float*>(pointer(given[1]));
    auto* output = static_cast<float*>(pointer(given[2]));
    const auto* present = static_cast<const int64_t*>(pointer(given[3]));
    const int64_t reads = PyLong_AsLongLong(given[4]), scatter = PyObject_IsTrue(given[5]);
    const int64_t threads = PyLong_AsLongLong(given[6]);
    if (PyErr_Occurred()) return nullptr;
    int64_t on;
    Py_BEGIN_ALLOW_THREADS;
    on = squeeze_gated_conv2d(site, input, output, present, reads, scatter, threads);
    Py_END_ALLOW_THREADS;
    return PyLong_FromLongLong(on);
}

PyObject *version_name, *pointer_name;

// Whether `got`, which it takes, equals a number: 1 or 0, or -1 with an error.
int equals(PyObject* got, PyObject* number) {
    if (!got) return -1;
    const int found = PyObject_RichCompareBool(got, number, Py_EQ);
    Py_DECREF(got);
    return found;
}

// 1 if mapping[key] is still the value, and that, if it is a tensor, of the same version at the same address.
int as_it_was(PyObject* place) {
    if (!PyTuple_Check(place) || PyTuple_GET_SIZE(place) != 5 || !PyDict_Check(PyTuple_GET_ITEM(place, 0))) {
        PyErr_SetString(PyExc_TypeError, "unchanged: a place must be a dict, a key, a value, its version and its address");
        return -1;
    }
    PyObject* value = PyTuple_GET_ITEM(place, 2);
    if (PyDict_GetItemWithError(PyTuple_GET_ITEM(place, 0), PyTuple_GET_ITEM(place, 1)) != value)
        return PyErr_Occurred() ? -1 : 0;
    if (PyTuple_GET_ITEM(place, 4) == Py_None) return 1;
    const int same = equals(PyObject_GetAttr(value, version_name), PyTuple_GET_ITEM(place, 3));
    return same == 1 ? equals(PyObject_CallMethodNoArgs(value, pointer_name), PyTuple_GET_ITEM(place, 4)) : same;
}

PyObject* unchanged(PyObject*, PyObject* places) {
    if (!PyTuple_Check(places)) return PyErr_Format(PyExc_TypeError, "unchanged: must have a tuple of places");
    for (Py_ssize_t i = 0; i < PyTuple_GET_SIZE(places); ++i) {
        const int same = as_it_was(PyTuple_GET_ITEM(places, i));
        if (same < 0) return nullptr;
        if (!same) Py_RETURN_FALSE;
    }
    Py_RETURN_TRUE;
}

PyMethodDef methods[] = {
    {"gated", reinterpret_cast<PyCFunction>(reinterpret_cast<void (*)()>(gated)), METH_FASTCALL, nullptr},
    {"unchanged", unchanged, METH_O, nullptr},
    {nullptr, nullptr, 0, nullptr},
};
PyModuleDef module = {PyModuleDef_HEAD_INIT, "_clustered", nullptr, -1, methods, nullptr, nullptr, nullptr, nullptr};

}  // namespace

PyMODINIT_FUNC PyInit__clustered() {
    version_name = PyUnicode_InternFromString("_version");
    pointer_name = PyUnicode_InternFromString("data_ptr");
    return version_name && pointer_name ? PyModule_Create(&module) : nullptr;
}
#endif
