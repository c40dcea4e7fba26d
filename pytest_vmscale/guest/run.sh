# Runs jobs of ./jobs.fio, each at its time by this machine's clock: lines of NANOSECONDS and JOB in ./schedule.
# Writes what became of each to ./status: JOB, when it started and ended (nanoseconds), fio's exit code.
echo $$ >pid
# A job has all files of its dataset open.
ulimit -n "$(ulimit -Hn)"
while read -r at job; do
  left=$(( at - $(date +%s%N) ))
  if [ "$left" -gt 0 ]; then
    sleep "$(( left / 1000000000 )).$(printf %09d $(( left % 1000000000 )))"
  fi
  rm -f "$job.json" "$job.out"
  started=$(date +%s%N)
  fio --output-format=json+ --output="$job.json" --section="$job" jobs.fio >"$job.out" 2>&1 </dev/null
  code=$?
  echo "$job $started $(date +%s%N) $code" >>status
done <schedule
rm -f pid
