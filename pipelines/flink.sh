#!/usr/bin/env bash
# Beam's job server for Flink, and a Flink to run jobs on, on the loopback address of this machine.
#
#     pipelines/flink.sh fetch                  gets the jars from Maven Central (once; 152 MB)
#     pipelines/flink.sh PORT                   serves jobs on PORT; Flink runs in the same process
#     pipelines/flink.sh PORT TASK_MANAGERS     on a session cluster: a JobManager and so many
#                                               TaskManagers, each a process whose id is printed;
#                                               it takes PORT + 1 and PORT + 2, too
#
# A job runs there with --runner=PortableRunner --job_endpoint=127.0.0.1:PORT, and with
# --environment_type=LOOPBACK where Flink runs in one process. Needs Java 11 or 17; Maven to fetch.
set -euo pipefail
readonly CACHE=${XDG_CACHE_HOME:-$HOME/.cache}/tfrs_twotower/flink
# Both sides speak Beam's portable protocol: the runner need not be as new as the SDK.
readonly BEAM=2.62.0 FLINK=1.19

fetch() {
  [[ ! -d "$CACHE/lib" ]] || return 0
  mkdir -p "$CACHE"
  cat > "$CACHE/pom.xml" << POM
<project xmlns="http://maven.apache.org/POM/4.0.0">
  <modelVersion>4.0.0</modelVersion>
  <groupId>twotower</groupId><artifactId>flink</artifactId><version>1</version>
  <dependencies>
    <dependency>
      <groupId>org.apache.beam</groupId>
      <artifactId>beam-runners-flink-$FLINK</artifactId><version>$BEAM</version>
    </dependency>
    <dependency>
      <groupId>org.slf4j</groupId><artifactId>slf4j-simple</artifactId><version>1.7.30</version>
    </dependency>
  </dependencies>
</project>
POM
  mvn --batch-mode --quiet --file "$CACHE/pom.xml" dependency:copy-dependencies \
    -DincludeScope=runtime -DoutputDirectory="$CACHE/lib.new"
  mv "$CACHE/lib.new" "$CACHE/lib"
}

# What Flink's own scripts would work out: addresses, the parts of a TaskManager's memory. And that
# Beam's classes are Flink's: those of a job's own jar end their workers after each stage.
configure() {
  cat > "$work/flink-conf.yaml" << CONF
classloader.resolve-order: parent-first
jobmanager.bind-host: 127.0.0.1
jobmanager.memory.process.size: 1g
jobmanager.rpc.address: 127.0.0.1
jobmanager.rpc.port: $(($1 + 2))
rest.address: 127.0.0.1
rest.bind-address: 127.0.0.1
rest.port: $(($1 + 1))
taskmanager.bind-host: 127.0.0.1
taskmanager.host: 127.0.0.1
taskmanager.numberOfTaskSlots: 1
taskmanager.cpu.cores: 1
taskmanager.memory.framework.heap.size: 128m
taskmanager.memory.framework.off-heap.size: 128m
taskmanager.memory.jvm-metaspace.size: 256m
taskmanager.memory.jvm-overhead.max: 192m
taskmanager.memory.jvm-overhead.min: 192m
taskmanager.memory.managed.size: 512m
taskmanager.memory.network.max: 512m
taskmanager.memory.network.min: 512m
taskmanager.memory.task.heap.size: 1300m
taskmanager.memory.task.off-heap.size: 0
heartbeat.interval: 2000
heartbeat.timeout: 10000
restart-strategy.type: fixed-delay
restart-strategy.fixed-delay.attempts: 30
CONF
}

run() {
  local opened=() package
  # What Flink's own scripts open to Java 17.
  for package in lang lang.reflect io net nio text time util util.concurrent \
    util.concurrent.atomic util.concurrent.locks; do
    opened+=("--add-opens=java.base/java.$package=ALL-UNNAMED")
  done
  exec java "${opened[@]}" -cp "$CACHE/lib/*" "$@"
}

serve() {
  local port=$1 task_managers=${2:-0} master='[local]' number
  work=$(mktemp -d)
  # All that was started ends with this script.
  trap 'kill $(jobs -p) 2> /dev/null; wait; rm -rf "$work"' EXIT
  trap 'exit 143' TERM INT
  configure "$port"
  if ((task_managers)); then
    master=127.0.0.1:$((port + 1))
    run -Xmx512m org.apache.flink.runtime.entrypoint.StandaloneSessionClusterEntrypoint \
      --configDir "$work" &
    echo "JobManager: $!"
    for ((number = 1; number <= task_managers; number++)); do
      # The heap holds what one task sends back before any of it is read: 100 messages of 10 MB.
      run -Xmx1536m -XX:MaxDirectMemorySize=800m \
        org.apache.flink.runtime.taskexecutor.TaskManagerRunner --configDir "$work" &
      echo "TaskManager: $!"
    done
  fi
  run -Xmx2g org.apache.beam.runners.flink.FlinkJobServerDriver "--flink-master=$master" \
    --flink-conf-dir="$work" --artifacts-dir="$work/artifacts" \
    --job-host=127.0.0.1 --job-port="$port" --artifact-port=0 --expansion-port=0 &
  wait
}

case "${1:-}" in
  fetch) fetch ;;
  [0-9]*) fetch && serve "$@" ;;
  *) sed -n '2,12s/^# \{0,1\}//p' "$0" && exit 2 ;;
esac
