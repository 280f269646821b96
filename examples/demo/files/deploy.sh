#!/bin/sh
# Part of the app's repository. The agent runs it while the service is down; GITHUB_SHA is the commit that was pushed.
set -eu

{
    git fetch origin
    git checkout --detach "$GITHUB_SHA"
} 2>&1 | tee -a ../app.log

# The pipe has hidden how git ended.
test "$(git rev-parse HEAD)" = "$GITHUB_SHA"
