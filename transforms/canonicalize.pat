// Arithmetic that returns one of its operands, or zero.

// x + 0 == x - 0 == x | 0 == x ^ 0 == x << 0 == x >> 0 == max(x, 0) == x, the last one unsigned
rule drop-zero-operand for f in
    arith.addi | arith.subi | arith.ori | arith.xori | arith.shli | arith.shrui | arith.shrsi | arith.maxui
  match   f(x : integer, 0)
  rewrite x

// x * 1 == x / 1 == x
rule drop-one-operand for f in
    arith.muli | arith.divsi | arith.divui | arith.floordivsi | arith.ceildivsi | arith.ceildivui
  match   f(x : integer, 1)
  where   width(x) > 1
  rewrite x

// x * 0 == x & 0 == min(x, 0) == 0, the last one unsigned
rule absorb-into-zero for f in arith.muli | arith.andi | arith.minui
  match   f(x : integer, zero @ 0)
  rewrite zero

// x % 1 == 0
rule drop-rest-of-one for f in arith.remui | arith.remsi
  match   f(x : integer, 1)
  where   width(x) > 1
  rewrite constant_like(0, x)

// x & x == x | x == min(x, x) == max(x, x) == x
rule drop-repeated-operand for f in arith.andi | arith.ori | arith.minsi | arith.maxsi | arith.minui | arith.maxui
  match   f(x : integer, x)
  rewrite x

// x - x == x ^ x == 0
rule cancel-equal-operands for f in arith.subi | arith.xori
  match   f(x : integer, x)
  rewrite constant_like(0, x)

// x * 1.0 == x
rule drop-float-factor
  match   commutative arith.mulf(x : float, 1.0)
  rewrite x

// x / 1.0 == x
rule drop-float-divisor
  match   arith.divf(x : float, 1.0)
  rewrite x

// x + -0.0 == x, but x + 0.0 turns -0.0 into 0.0
rule drop-float-summand
  match   commutative arith.addf(x : float, -0.0)
  rewrite x

// x - 0.0 == x
rule drop-float-subtrahend
  match   arith.subf(x : float, 0.0)
  rewrite x
