; y[i] = i + sum of x[i, 0..999], each row summed in its thread's scratch, then copied out through the arena.
declare ptr @stepwell_rt_arena(ptr, i64)
declare ptr @stepwell_rt_output(ptr, i64, i64, ptr)
declare i32 @stepwell_rt_launch(ptr, ptr, ptr, ptr, i64, i64, i64, i64)

define void @rows(ptr %buffers, ptr %dims, i64 %begin, i64 %end, ptr %scratch) {
entry:
  %x = load ptr, ptr %buffers
  %y_slot = getelementptr ptr, ptr %buffers, i64 1
  %y = load ptr, ptr %y_slot
  br label %row
row:
  %i = phi i64 [ %begin, %entry ], [ %i_next, %row_end ]
  store float 0.0, ptr %scratch
  %base = mul i64 %i, 1000
  br label %sum
sum:
  %k = phi i64 [ 0, %row ], [ %k_next, %sum ]
  %at = add i64 %base, %k
  %from = getelementptr float, ptr %x, i64 %at
  %v = load float, ptr %from
  %s = load volatile float, ptr %scratch
  %s2 = fadd float %s, %v
  store volatile float %s2, ptr %scratch
  %k_next = add i64 %k, 1
  %k_more = icmp slt i64 %k_next, 1000
  br i1 %k_more, label %sum, label %row_end
row_end:
  %total = load float, ptr %scratch
  %f = sitofp i64 %i to float
  %r = fadd float %total, %f
  %to = getelementptr float, ptr %y, i64 %i
  store float %r, ptr %to
  %i_next = add i64 %i, 1
  %more = icmp slt i64 %i_next, %end
  br i1 %more, label %row, label %done
done:
  ret void
}

define void @copy(ptr %buffers, ptr %dims, i64 %begin, i64 %end, ptr %scratch) {
entry:
  %x = load ptr, ptr %buffers
  %y_slot = getelementptr ptr, ptr %buffers, i64 1
  %y = load ptr, ptr %y_slot
  br label %loop
loop:
  %i = phi i64 [ %begin, %entry ], [ %next, %loop ]
  %from = getelementptr float, ptr %x, i64 %i
  %to = getelementptr float, ptr %y, i64 %i
  %v = load float, ptr %from
  store float %v, ptr %to
  %next = add i64 %i, 1
  %more = icmp slt i64 %next, %end
  br i1 %more, label %loop, label %done
done:
  ret void
}

define i32 @stepwell_main(ptr %ctx, ptr %inputs, ptr %dims) {
  %buffers = alloca [2 x ptr]
  %n = load i64, ptr %dims
  %bytes = shl i64 %n, 2
  %arena = call ptr @stepwell_rt_arena(ptr %ctx, i64 %bytes)
  %no_arena = icmp eq ptr %arena, null
  br i1 %no_arena, label %fail, label %first
first:
  %x = load ptr, ptr %inputs
  %slot = getelementptr ptr, ptr %buffers, i64 1
  store ptr %x, ptr %buffers
  store ptr %arena, ptr %slot
  %s1 = call i32 @stepwell_rt_launch(ptr %ctx, ptr @rows, ptr %buffers, ptr %dims, i64 %n, i64 3000, i64 100, i64 0)
  %bad1 = icmp ne i32 %s1, 0
  br i1 %bad1, label %fail, label %second
second:
  %y = call ptr @stepwell_rt_output(ptr %ctx, i64 0, i64 1, ptr %dims)
  %bad2 = icmp eq ptr %y, null
  br i1 %bad2, label %fail, label %third
third:
  store ptr %arena, ptr %buffers
  store ptr %y, ptr %slot
  %s2 = call i32 @stepwell_rt_launch(ptr %ctx, ptr @copy, ptr %buffers, ptr %dims, i64 %n, i64 100, i64 0, i64 1)
  ret i32 %s2
fail:
  ret i32 1
}
