; sum = a + b and difference = a - b, both f32[n, 3]; the two extents of `dims` are both n.
declare ptr @stepwell_rt_output(ptr, i64, i64, ptr)

define i32 @stepwell_main(ptr %ctx, ptr %inputs, ptr %dims) {
entry:
  %shape = alloca [2 x i64]
  %n = load i64, ptr %dims
  store i64 %n, ptr %shape
  %columns = getelementptr i64, ptr %shape, i64 1
  store i64 3, ptr %columns
  %sum = call ptr @stepwell_rt_output(ptr %ctx, i64 0, i64 2, ptr %shape)
  %difference = call ptr @stepwell_rt_output(ptr %ctx, i64 1, i64 2, ptr %shape)
  %a = load ptr, ptr %inputs
  %b_slot = getelementptr ptr, ptr %inputs, i64 1
  %b = load ptr, ptr %b_slot
  %total = mul i64 %n, 3
  %bad0 = icmp eq ptr %sum, null
  %bad1 = icmp eq ptr %difference, null
  %bad = or i1 %bad0, %bad1
  br i1 %bad, label %fail, label %head
head:
  %i = phi i64 [ 0, %entry ], [ %next, %body ]
  %more = icmp slt i64 %i, %total
  br i1 %more, label %body, label %done
body:
  %pa = getelementptr float, ptr %a, i64 %i
  %pb = getelementptr float, ptr %b, i64 %i
  %ps = getelementptr float, ptr %sum, i64 %i
  %pd = getelementptr float, ptr %difference, i64 %i
  %x = load float, ptr %pa
  %y = load float, ptr %pb
  %s = fadd float %x, %y
  %d = fsub float %x, %y
  store float %s, ptr %ps
  store float %d, ptr %pd
  %next = add i64 %i, 1
  br label %head
done:
  ret i32 0
fail:
  ret i32 1
}
