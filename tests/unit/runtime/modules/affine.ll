; y[batch, 4] = 2 * x[batch, 4] + w[4]: one dynamic extent, one launch, weights.
@stepwell_weights = external constant i8

declare ptr @stepwell_rt_output(ptr, i64, i64, ptr)
declare i32 @stepwell_rt_launch(ptr, ptr, ptr, ptr, i64, i64, i64, i64)

define void @affine(ptr %buffers, ptr %dims, i64 %begin, i64 %end, ptr %scratch) {
  %x = load ptr, ptr %buffers
  %w_slot = getelementptr ptr, ptr %buffers, i64 1
  %w = load ptr, ptr %w_slot
  %y_slot = getelementptr ptr, ptr %buffers, i64 2
  %y = load ptr, ptr %y_slot
  %bias = load <4 x float>, ptr %w, align 4
  br label %loop
loop:
  %i = phi i64 [ %begin, %0 ], [ %next, %loop ]
  %at = shl i64 %i, 2
  %from = getelementptr float, ptr %x, i64 %at
  %to = getelementptr float, ptr %y, i64 %at
  %a = load <4 x float>, ptr %from, align 4
  %b = fadd <4 x float> %a, %a
  %c = fadd <4 x float> %b, %bias
  store <4 x float> %c, ptr %to, align 4
  %next = add i64 %i, 1
  %more = icmp slt i64 %next, %end
  br i1 %more, label %loop, label %done
done:
  ret void
}

define i32 @stepwell_main(ptr %ctx, ptr %inputs, ptr %dims) {
  %shape = alloca [2 x i64]
  %buffers = alloca [3 x ptr]
  %batch = load i64, ptr %dims
  store i64 %batch, ptr %shape
  %columns = getelementptr i64, ptr %shape, i64 1
  store i64 4, ptr %columns
  %y = call ptr @stepwell_rt_output(ptr %ctx, i64 0, i64 2, ptr %shape)
  %bad = icmp eq ptr %y, null
  br i1 %bad, label %fail, label %go
go:
  %x = load ptr, ptr %inputs
  store ptr %x, ptr %buffers
  %w = getelementptr i8, ptr @stepwell_weights, i64 64
  %w_slot = getelementptr ptr, ptr %buffers, i64 1
  store ptr %w, ptr %w_slot
  %y_slot = getelementptr ptr, ptr %buffers, i64 2
  store ptr %y, ptr %y_slot
  %status = call i32 @stepwell_rt_launch(ptr %ctx, ptr @affine, ptr %buffers, ptr %dims, i64 %batch, i64 2, i64 0, i64 0)
  ret i32 %status
fail:
  ret i32 1
}
