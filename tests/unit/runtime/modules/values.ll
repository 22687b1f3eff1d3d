; appended = s with x at its end, if x is there; count = the number of elements of appended
declare ptr @stepwell_rt_insert(ptr, ptr, ptr, i64)
declare ptr @stepwell_rt_output(ptr, i64, i64, ptr)
declare i64 @stepwell_rt_length(ptr, ptr)
declare i32 @stepwell_rt_present(ptr, ptr)
declare i32 @stepwell_rt_output_value(ptr, i64, ptr)

define i32 @stepwell_main(ptr %ctx, ptr %inputs, ptr %dims) {
  %s = load ptr, ptr %inputs
  %at = getelementptr ptr, ptr %inputs, i64 1
  %x = load ptr, ptr %at
  %present = call i32 @stepwell_rt_present(ptr %ctx, ptr %x)
  %given = icmp ne i32 %present, 0
  br i1 %given, label %append, label %end

append:
  %length = call i64 @stepwell_rt_length(ptr %ctx, ptr %s)
  %longer = call ptr @stepwell_rt_insert(ptr %ctx, ptr %s, ptr %x, i64 %length)
  %null = icmp eq ptr %longer, null
  br i1 %null, label %failed, label %end

end:
  %result = phi ptr [ %s, %0 ], [ %longer, %append ]
  %count = call i64 @stepwell_rt_length(ptr %ctx, ptr %result)
  %place = call ptr @stepwell_rt_output(ptr %ctx, i64 1, i64 0, ptr null)
  %missing = icmp eq ptr %place, null
  br i1 %missing, label %failed, label %write

write:
  store i64 %count, ptr %place
  %status = call i32 @stepwell_rt_output_value(ptr %ctx, i64 0, ptr %result)
  ret i32 %status

failed:
  ret i32 1
}
