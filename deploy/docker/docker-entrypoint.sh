#!/bin/sh
# Flink's verbs; anything else is run as it is.
#
# Nothing is configured here: the binary itself reads conf/config.yaml, FLINK_PROPERTIES and the other variables. No file is
# written, so the configuration may be mounted read-only.
set -eu
case "${1:-help}" in
help)
  cat <<'USAGE'
Usage: docker run IMAGE COMMAND [-D key=value]…

  jobmanager        a JobManager; jobmanager.raft.peers makes several of them one group
  taskmanager       a TaskManager
  standalone-job    a JobManager for one application
  help              this text
  anything else     is run as it is: flink list, perennial status, sh

Options, from low to high:
  /opt/perennial/conf/config.yaml, or the same below /opt/flink
  JOB_MANAGER_RPC_ADDRESS, TASK_MANAGER_NUMBER_OF_TASK_SLOTS
  FLINK_PROPERTIES, which holds YAML: lines such as `key: value`, or nested
  PERENNIAL__KEY__OF__OPTION=value
  -D key=value
`perennial config show --origin` shows what is in force.
USAGE
  ;;
jobmanager | taskmanager | standalone-job)
  # One stream for the log, in order.
  exec perennial "$@" 2>&1
  ;;
history-server)
  echo 'There is no history server: any JobManager lists ended jobs, as long as jobstore.expiration-time and' >&2
  echo 'jobstore.max-capacity say, also after a restart. Use the command jobmanager.' >&2
  exit 2
  ;;
*)
  exec "$@"
  ;;
esac
