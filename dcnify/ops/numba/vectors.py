"""SIMD registers for Numba: a vector of numbers that LLVM keeps in registers while it is summed.

Numba leaves vectorising to LLVM, which must first show that the arrays of a loop do not overlap; a
loop over 32 channels is too short to pay for that, and its sums go through memory. Here a vector
is a value: `load` reads one from consecutive elements, `add_scaled` is a multiply-add, `store`
writes it back. Any lane count works on any processor, LLVM splits it as the processor needs.
Indices are not checked and do not wrap.
"""

from llvmlite import ir
from numba.core import types
from numba.core.datamodel import models
from numba.extending import intrinsic, register_model

from dcnify.ops.numba.cache import fused

_FUSE = ("contract",)
"""Lets a multiply and an add become one instruction where the processor has one."""


class Vector(types.Type):
    """The Numba type of ``lanes`` numbers of one dtype."""

    def __init__(self, dtype: types.Type, lanes: int) -> None:
        self.dtype, self.lanes = dtype, lanes
        super().__init__(name=f"Vector({dtype}, {lanes})")


@register_model(Vector)
class _VectorModel(models.PrimitiveModel):
    def __init__(self, manager, vector: Vector) -> None:
        element = manager.lookup(vector.dtype).get_value_type()
        super().__init__(manager, vector, ir.VectorType(element, vector.lanes))


@intrinsic(prefer_literal=True)
def zeros(typingctx, array, lanes):
    """A vector of ``lanes`` (a constant) zeros of the dtype of ``array``."""
    vector = Vector(array.dtype, lanes.literal_value)

    def generate(context, builder, signature, arguments):
        return ir.Constant(context.get_value_type(vector), None)

    return vector(array, lanes), generate


@intrinsic
def lanes(typingctx, vector):
    """How many numbers a vector has, a constant."""

    def generate(context, builder, signature, arguments):
        return ir.IntType(64)(vector.lanes)

    return types.int64(vector), generate


@intrinsic
def get(typingctx, array, index):
    """One element of a flat array; ``array[index]`` would test for a negative index."""

    def generate(context, builder, signature, arguments):
        return builder.load(_element(context, builder, signature.args[0], arguments))

    return array.dtype(array, types.intp), generate


@intrinsic
def put(typingctx, number, array, index):
    """Write one element of a flat array, likewise."""

    def generate(context, builder, signature, arguments):
        builder.store(arguments[0], _element(context, builder, signature.args[1], arguments[1:]))
        return context.get_dummy_value()

    return types.void(array.dtype, array, types.intp), generate


@intrinsic
def load(typingctx, like, array, index):
    """As many elements as ``like`` has lanes, from ``index`` of a flat array."""

    def generate(context, builder, signature, arguments):
        pointer = _pointer(context, builder, signature.args[1], arguments[1:], like)
        return builder.load(pointer, align=_alignment(context, like))

    return like(like, array, types.intp), generate


@intrinsic
def store(typingctx, vector, array, index):
    """Write a vector to the elements of a flat array from ``index``."""

    def generate(context, builder, signature, arguments):
        pointer = _pointer(context, builder, signature.args[1], arguments[1:], vector)
        builder.store(arguments[0], pointer, align=_alignment(context, vector))
        return context.get_dummy_value()

    return types.void(vector, array, types.intp), generate


@intrinsic
def add(typingctx, left, right):
    """Sum of two vectors, lane by lane."""

    def generate(context, builder, signature, arguments):
        return builder.fadd(*arguments, flags=_FUSE)

    return left(left, right), generate


@intrinsic
def multiply(typingctx, left, right):
    """Product of two vectors, lane by lane."""

    def generate(context, builder, signature, arguments):
        return builder.fmul(*arguments, flags=_FUSE)

    return left(left, right), generate


@intrinsic
def add_scaled(typingctx, sums, scale, vector):
    """``sums + scale * vector``, the scale being one number."""

    def generate(context, builder, signature, arguments):
        undefined = ir.Constant(context.get_value_type(vector), ir.Undefined)
        one = builder.insert_element(undefined, arguments[1], ir.IntType(32)(0))
        mask = ir.Constant(ir.VectorType(ir.IntType(32), vector.lanes), None)
        scales = builder.shuffle_vector(one, undefined, mask)
        return builder.fadd(arguments[0], builder.fmul(scales, arguments[2], _FUSE), flags=_FUSE)

    return sums(sums, vector.dtype, vector), generate


@intrinsic
def total(typingctx, vector):
    """Sum of the lanes: halves are added until one is left, so the order is fixed."""

    def generate(context, builder, signature, arguments):
        (sums,), lanes = arguments, vector.lanes
        while lanes > 1:
            lanes //= 2
            low, high = (
                ir.Constant(
                    ir.VectorType(ir.IntType(32), lanes),
                    [ir.IntType(32)(i + first) for i in range(lanes)],
                )
                for first in (0, lanes)
            )
            sums = builder.fadd(
                builder.shuffle_vector(sums, sums, low),
                builder.shuffle_vector(sums, sums, high),
            )
        return builder.extract_element(sums, ir.IntType(32)(0))

    return vector.dtype(vector), generate


@intrinsic
def two_to_the(typingctx, exponent):
    """2 to a whole power that a normal number can have: the exponent's bits are put in place."""
    bits, fraction = {types.float32: (32, 23), types.float64: (64, 52)}[exponent]

    def generate(context, builder, signature, arguments):
        integer = ir.IntType(bits)
        biased = builder.add(
            builder.fptosi(arguments[0], integer),
            integer(2 ** (bits - fraction - 2) - 1),
        )
        return builder.bitcast(builder.shl(biased, integer(fraction)), arguments[0].type)

    return exponent(exponent), generate


def _element(context, builder, array, arguments):
    """Address of an element, given the array's type, the array and the index."""
    data = context.make_array(array)(context, builder, arguments[0]).data
    return builder.gep(data, [arguments[1]])


def _pointer(context, builder, array, arguments, vector):
    """Address of the vector that starts at an element."""
    element = _element(context, builder, array, arguments)
    return builder.bitcast(element, context.get_value_type(vector).as_pointer())


def _alignment(context, vector) -> int:
    return context.get_abi_sizeof(context.get_value_type(vector.dtype))


@fused
def copy(source, source_at, target, target_at, count):
    """Copy ``count`` elements that lie side by side."""
    c = 0
    while c + 16 <= count:
        store(load(zeros(source, 16), source, source_at + c), target, target_at + c)
        c += 16
    while c + 8 <= count:
        store(load(zeros(source, 8), source, source_at + c), target, target_at + c)
        c += 8
    while c < count:
        store(load(zeros(source, 1), source, source_at + c), target, target_at + c)
        c += 1
