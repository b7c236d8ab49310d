#!/usr/bin/env bash
# Beam's job server with a Flink cluster inside, on the loopback address of this machine.
#
#     pipelines/flink.sh fetch     gets the jars from Maven Central (once; 152 MB)
#     pipelines/flink.sh PORT      serves jobs on this port until it is ended
#
# A job runs there with --runner=PortableRunner --job_endpoint=127.0.0.1:PORT --environment_type=LOOPBACK.
# Needs Java 11 or 17, and Maven to fetch.
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

serve() {
  mkdir -p "$CACHE/conf"
  # Without these Flink listens on every address.
  cat > "$CACHE/conf/flink-conf.yaml" << 'CONF'
jobmanager.bind-host: 127.0.0.1
taskmanager.bind-host: 127.0.0.1
rest.bind-address: 127.0.0.1
CONF
  local opened=() package
  # What Flink's own scripts open to Java 17.
  for package in lang lang.reflect io net nio text time util util.concurrent \
    util.concurrent.atomic util.concurrent.locks; do
    opened+=("--add-opens=java.base/java.$package=ALL-UNNAMED")
  done
  exec java -Xmx1g "${opened[@]}" -cp "$CACHE/lib/*" \
    org.apache.beam.runners.flink.FlinkJobServerDriver '--flink-master=[local]' \
    --flink-conf-dir="$CACHE/conf" --artifacts-dir="$CACHE/artifacts" \
    --job-host=127.0.0.1 --job-port="$1" --artifact-port=0 --expansion-port=0
}

case "${1:-}" in
  fetch) fetch ;;
  [0-9]*) fetch && serve "$1" ;;
  *) sed -n '2,8s/^# \{0,1\}//p' "$0" && exit 2 ;;
esac
