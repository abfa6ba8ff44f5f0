"""Conversions to and from 16-bit floats for which x86-64 has no instruction, as LLVM IR.

One idea: LLVM turns these conversions into calls of the compiler's own library, which a Python
process has not loaded; these are the calls it makes. Invariant: every value, denormals and NaN
included, is rounded once, to nearest even, as the F16C and AArch64 instructions do.
"""

SOFT_HALF = ("__extendhfsf2", "__truncsfhf2", "__truncdfhf2", "__truncsfbf2", "__truncdfbf2")

SOFT_HALF_IR = """
define float @__extendhfsf2(half %value) {
  %h = bitcast half %value to i16
  %w = zext i16 %h to i32
  %sign16 = and i32 %w, 32768
  %sign = shl i32 %sign16, 16
  %mag = and i32 %w, 32767
  %shifted = shl i32 %mag, 13
  ; times 2^112 moves the exponent to its new bias, and makes denormals normal, exactly
  %small = bitcast i32 %shifted to float
  %scaled = fmul float %small, 0x46F0000000000000
  %finite = bitcast float %scaled to i32
  %special = icmp uge i32 %mag, 31744
  %nan = icmp ugt i32 %mag, 31744
  %quiet = select i1 %nan, i32 2143289344, i32 2139095040
  %big = or i32 %shifted, %quiet
  %bits = select i1 %special, i32 %big, i32 %finite
  %signed = or i32 %bits, %sign
  %result = bitcast i32 %signed to float
  ret float %result
}

define half @__truncsfhf2(float %value) {
  %w = bitcast float %value to i32
  %sign32 = lshr i32 %w, 16
  %sign = and i32 %sign32, 32768
  %mag = and i32 %w, 2147483647
  ; normal numbers: add half of the last place, ties to even
  %last = lshr i32 %mag, 13
  %odd = and i32 %last, 1
  %up = add i32 %mag, %odd
  %rounded = add i32 %up, 3355447295
  %normal = lshr i32 %rounded, 13
  ; below 2^-14: the last place of 0.5 in single is the last place of half's denormals
  %abs = bitcast i32 %mag to float
  %sum = fadd float %abs, 5.000000e-01
  %sum.bits = bitcast float %sum to i32
  %denormal = sub i32 %sum.bits, 1056964608
  %tiny = icmp ult i32 %mag, 947912704
  %number = select i1 %tiny, i32 %denormal, i32 %normal
  ; from 65520 on: infinity; NaN keeps the top of its payload and becomes quiet
  %over = icmp uge i32 %mag, 1199566848
  %limited = select i1 %over, i32 31744, i32 %number
  %payload = and i32 %last, 1023
  %quiet = or i32 %payload, 32256
  %nan = icmp ugt i32 %mag, 2139095040
  %chosen = select i1 %nan, i32 %quiet, i32 %limited
  %signed = or i32 %chosen, %sign
  %narrow = trunc i32 %signed to i16
  %result = bitcast i16 %narrow to half
  ret half %result
}

define bfloat @__truncsfbf2(float %value) {
  %w = bitcast float %value to i32
  %mag = and i32 %w, 2147483647
  %nan = icmp ugt i32 %mag, 2139095040
  %last = lshr i32 %w, 16
  %odd = and i32 %last, 1
  %up = add i32 %w, %odd
  %half = add i32 %up, 32767
  %number = lshr i32 %half, 16
  %quiet = or i32 %last, 64
  %chosen = select i1 %nan, i32 %quiet, i32 %number
  %narrow = trunc i32 %chosen to i16
  %result = bitcast i16 %narrow to bfloat
  ret bfloat %result
}

; Rounds to odd: what is cut off leaves a 1 in the last place, so that rounding again is exact.
define internal float @odd(double %value) {
  %near = fptrunc double %value to float
  %back = fpext float %near to double
  %inexact = fcmp one double %back, %value
  %back.abs = call double @llvm.fabs.f64(double %back)
  %value.abs = call double @llvm.fabs.f64(double %value)
  %away = fcmp ogt double %back.abs, %value.abs
  %w = bitcast float %near to i32
  %less = sub i32 %w, 1
  %cut = select i1 %away, i32 %less, i32 %w
  %sticky = or i32 %cut, 1
  %bits = select i1 %inexact, i32 %sticky, i32 %w
  %result = bitcast i32 %bits to float
  ret float %result
}

define half @__truncdfhf2(double %value) {
  %single = call float @odd(double %value)
  %result = call half @__truncsfhf2(float %single)
  ret half %result
}

define bfloat @__truncdfbf2(double %value) {
  %single = call float @odd(double %value)
  %result = call bfloat @__truncsfbf2(float %single)
  ret bfloat %result
}

declare double @llvm.fabs.f64(double)
"""
