; The elements of x: f32[n] that are positive: an output whose extent follows from data. None is an error.
@message = private constant [28 x i8] c"no element is positive here\00"
declare ptr @stepwell_rt_alloc(ptr, i64)
declare ptr @stepwell_rt_output(ptr, i64, i64, ptr)
declare i32 @stepwell_rt_fail(ptr, ptr)
declare void @llvm.memcpy.p0.p0.i64(ptr, ptr, i64, i1)

define i32 @stepwell_main(ptr %ctx, ptr %inputs, ptr %dims) {
entry:
  %count = alloca i64
  %x = load ptr, ptr %inputs
  %n = load i64, ptr %dims
  %bytes = shl i64 %n, 2
  %copy = call ptr @stepwell_rt_alloc(ptr %ctx, i64 %bytes)
  %none = icmp eq ptr %copy, null
  br i1 %none, label %fail, label %head
head:
  %i = phi i64 [ 0, %entry ], [ %i_next, %tail ]
  %c = phi i64 [ 0, %entry ], [ %c_next, %tail ]
  %more = icmp slt i64 %i, %n
  br i1 %more, label %tail, label %done
tail:
  %from = getelementptr float, ptr %x, i64 %i
  %v = load float, ptr %from
  %to = getelementptr float, ptr %copy, i64 %c
  store float %v, ptr %to
  %positive = fcmp ogt float %v, 0.0
  %one = zext i1 %positive to i64
  %c_next = add i64 %c, %one
  %i_next = add i64 %i, 1
  br label %head
done:
  %empty = icmp eq i64 %c, 0
  br i1 %empty, label %complain, label %write
complain:
  %status = call i32 @stepwell_rt_fail(ptr %ctx, ptr @message)
  ret i32 %status
write:
  store i64 %c, ptr %count
  %y = call ptr @stepwell_rt_output(ptr %ctx, i64 0, i64 1, ptr %count)
  %bad = icmp eq ptr %y, null
  br i1 %bad, label %fail, label %ok
ok:
  %size = shl i64 %c, 2
  call void @llvm.memcpy.p0.p0.i64(ptr %y, ptr %copy, i64 %size, i1 false)
  ret i32 0
fail:
  ret i32 1
}
