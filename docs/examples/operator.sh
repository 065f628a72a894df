#!/bin/sh
# What an operator does at a terminal. Usage: operator.sh agent.db
set -eu
export RUNFOLD_DB="$1"

runfold runs                                        # what runs, active first
runfold confirmations                               # what waits for me
run=$(runfold confirmations --json | python3 -c 'import json, sys; print(json.load(sys.stdin)[0]["run_id"])')
call=$(runfold confirmations --json | python3 -c 'import json, sys; print(json.load(sys.stdin)[0]["call_id"])')
runfold show "$run"                                 # its life so far
runfold approve "$run" "$call" --by alice --comment "go ahead"
runfold recover --dry-run                           # what a recovery would do now
runfold rebuild                                     # make the tables anew from the log
runfold rebuild --check                             # and prove that they are right
runfold stats
runfold export > log.jsonl                          # the whole log, a line an event
