# Print an optspec for argparse to handle cmd's options that are independent of any subcommand.
function __fish_instance_agent_global_optspecs
    string join \n h/help V/version
end

function __fish_instance_agent_needs_command
    # Figure out if the current invocation already has a command.
    set -l cmd (commandline -opc)
    set -e cmd[1]
    argparse -s (__fish_instance_agent_global_optspecs) -- $cmd 2>/dev/null
    or return
    if set -q argv[1]
        # Also print the command, so this can be used to figure out what it is.
        echo $argv[1]
        return 1
    end
    return 0
end

function __fish_instance_agent_using_subcommand
    set -l cmd (__fish_instance_agent_needs_command)
    test -z "$cmd"
    and return 1
    contains -- $cmd[1] $argv
end

complete -c instance-agent -n "__fish_instance_agent_needs_command" -s h -l help -d 'Print help'
complete -c instance-agent -n "__fish_instance_agent_needs_command" -s V -l version -d 'Print version'
complete -c instance-agent -n "__fish_instance_agent_needs_command" -f -a "run" -d 'Listen for pushes and deploy them, until SIGTERM or SIGINT; SIGHUP reloads the configuration'
complete -c instance-agent -n "__fish_instance_agent_needs_command" -f -a "check" -d 'Validate the configuration as `run` would, and show every setting and where it came from'
complete -c instance-agent -n "__fish_instance_agent_needs_command" -f -a "status" -d 'Show what is deployed, pending and failed, whether or not the agent runs'
complete -c instance-agent -n "__fish_instance_agent_needs_command" -f -a "history" -d 'Show the last outcomes of one app, or of all'
complete -c instance-agent -n "__fish_instance_agent_needs_command" -f -a "publish" -d 'Tell agents of a push, for relays, CI, scripts and people: sends one message and awaits the broker\'s answer'
complete -c instance-agent -n "__fish_instance_agent_needs_command" -f -a "help" -d 'Print this message or the help of the given subcommand(s)'
complete -c instance-agent -n "__fish_instance_agent_using_subcommand run" -l config -d 'Configuration file; must exist [default: /etc/instance-agent/config.yaml, which may be missing]' -r -F
complete -c instance-agent -n "__fish_instance_agent_using_subcommand run" -l broker -d 'Broker, as mqtts://HOST[:PORT] or mqtt://HOST[:PORT]; replaces mqtt.url' -r
complete -c instance-agent -n "__fish_instance_agent_using_subcommand run" -l environment -d 'This instance\'s environment, such as production; replaces environment' -r
complete -c instance-agent -n "__fish_instance_agent_using_subcommand run" -l app -d 'An app, as OWNER/REPO[@BRANCH]=SERVICE; repeatable; replaces apps' -r
complete -c instance-agent -n "__fish_instance_agent_using_subcommand run" -l state-dir -d 'Where to keep state; replaces state_dir' -r -F
complete -c instance-agent -n "__fish_instance_agent_using_subcommand run" -l log-format -d 'Log lines for people, or one JSON object a line for collectors' -r -f -a "text\t''
json\t''"
complete -c instance-agent -n "__fish_instance_agent_using_subcommand run" -l log-level -d 'The least important events to log' -r -f -a "error\t''
warn\t''
info\t''
debug\t''
trace\t''"
complete -c instance-agent -n "__fish_instance_agent_using_subcommand run" -l ec2 -d 'This is an EC2 instance, even if it does not look like one: use its user-data'
complete -c instance-agent -n "__fish_instance_agent_using_subcommand run" -l ec2-tags -d 'Take environment and apps from the tags of this EC2 instance; replaces ec2.tags'
complete -c instance-agent -n "__fish_instance_agent_using_subcommand run" -s h -l help -d 'Print help'
complete -c instance-agent -n "__fish_instance_agent_using_subcommand check" -l config -d 'Configuration file; must exist [default: /etc/instance-agent/config.yaml, which may be missing]' -r -F
complete -c instance-agent -n "__fish_instance_agent_using_subcommand check" -l broker -d 'Broker, as mqtts://HOST[:PORT] or mqtt://HOST[:PORT]; replaces mqtt.url' -r
complete -c instance-agent -n "__fish_instance_agent_using_subcommand check" -l environment -d 'This instance\'s environment, such as production; replaces environment' -r
complete -c instance-agent -n "__fish_instance_agent_using_subcommand check" -l app -d 'An app, as OWNER/REPO[@BRANCH]=SERVICE; repeatable; replaces apps' -r
complete -c instance-agent -n "__fish_instance_agent_using_subcommand check" -l state-dir -d 'Where to keep state; replaces state_dir' -r -F
complete -c instance-agent -n "__fish_instance_agent_using_subcommand check" -l message -d 'Say what the agent would do with this message, and why; - reads standard input' -r -F
complete -c instance-agent -n "__fish_instance_agent_using_subcommand check" -l topic -d 'The topic of the message, such as github/OWNER/REPO' -r
complete -c instance-agent -n "__fish_instance_agent_using_subcommand check" -l header -d 'A header of the message, as an MQTT 5 user property would carry it; repeatable' -r
complete -c instance-agent -n "__fish_instance_agent_using_subcommand check" -l ec2 -d 'This is an EC2 instance, even if it does not look like one: use its user-data'
complete -c instance-agent -n "__fish_instance_agent_using_subcommand check" -l ec2-tags -d 'Take environment and apps from the tags of this EC2 instance; replaces ec2.tags'
complete -c instance-agent -n "__fish_instance_agent_using_subcommand check" -s h -l help -d 'Print help'
complete -c instance-agent -n "__fish_instance_agent_using_subcommand status" -l config -d 'Configuration file; must exist [default: /etc/instance-agent/config.yaml, which may be missing]' -r -F
complete -c instance-agent -n "__fish_instance_agent_using_subcommand status" -l broker -d 'Broker, as mqtts://HOST[:PORT] or mqtt://HOST[:PORT]; replaces mqtt.url' -r
complete -c instance-agent -n "__fish_instance_agent_using_subcommand status" -l environment -d 'This instance\'s environment, such as production; replaces environment' -r
complete -c instance-agent -n "__fish_instance_agent_using_subcommand status" -l app -d 'An app, as OWNER/REPO[@BRANCH]=SERVICE; repeatable; replaces apps' -r
complete -c instance-agent -n "__fish_instance_agent_using_subcommand status" -l state-dir -d 'Where to keep state; replaces state_dir' -r -F
complete -c instance-agent -n "__fish_instance_agent_using_subcommand status" -l ec2 -d 'This is an EC2 instance, even if it does not look like one: use its user-data'
complete -c instance-agent -n "__fish_instance_agent_using_subcommand status" -l ec2-tags -d 'Take environment and apps from the tags of this EC2 instance; replaces ec2.tags'
complete -c instance-agent -n "__fish_instance_agent_using_subcommand status" -l json -d 'One JSON document instead of a table'
complete -c instance-agent -n "__fish_instance_agent_using_subcommand status" -s h -l help -d 'Print help'
complete -c instance-agent -n "__fish_instance_agent_using_subcommand history" -l config -d 'Configuration file; must exist [default: /etc/instance-agent/config.yaml, which may be missing]' -r -F
complete -c instance-agent -n "__fish_instance_agent_using_subcommand history" -l broker -d 'Broker, as mqtts://HOST[:PORT] or mqtt://HOST[:PORT]; replaces mqtt.url' -r
complete -c instance-agent -n "__fish_instance_agent_using_subcommand history" -l environment -d 'This instance\'s environment, such as production; replaces environment' -r
complete -c instance-agent -n "__fish_instance_agent_using_subcommand history" -l app -d 'An app, as OWNER/REPO[@BRANCH]=SERVICE; repeatable; replaces apps' -r
complete -c instance-agent -n "__fish_instance_agent_using_subcommand history" -l state-dir -d 'Where to keep state; replaces state_dir' -r -F
complete -c instance-agent -n "__fish_instance_agent_using_subcommand history" -l ec2 -d 'This is an EC2 instance, even if it does not look like one: use its user-data'
complete -c instance-agent -n "__fish_instance_agent_using_subcommand history" -l ec2-tags -d 'Take environment and apps from the tags of this EC2 instance; replaces ec2.tags'
complete -c instance-agent -n "__fish_instance_agent_using_subcommand history" -l json -d 'One JSON document instead of a table'
complete -c instance-agent -n "__fish_instance_agent_using_subcommand history" -s h -l help -d 'Print help'
complete -c instance-agent -n "__fish_instance_agent_using_subcommand publish" -l broker -d 'Broker, as mqtts://HOST[:PORT] or mqtt://HOST[:PORT]' -r
complete -c instance-agent -n "__fish_instance_agent_using_subcommand publish" -l client-id -d 'Name of this client at the broker [default: publish- and random digits]' -r
complete -c instance-agent -n "__fish_instance_agent_using_subcommand publish" -l username -d 'Whom to log in as' -r
complete -c instance-agent -n "__fish_instance_agent_using_subcommand publish" -l password-file -d 'File whose first line is the password' -r -F
complete -c instance-agent -n "__fish_instance_agent_using_subcommand publish" -l ca-file -d 'Certificates of the authorities to trust, PEM [default: the system\'s]' -r -F
complete -c instance-agent -n "__fish_instance_agent_using_subcommand publish" -l cert-file -d 'This client\'s certificate, PEM' -r -F
complete -c instance-agent -n "__fish_instance_agent_using_subcommand publish" -l key-file -d 'The private key to --cert-file, PEM' -r -F
complete -c instance-agent -n "__fish_instance_agent_using_subcommand publish" -l alpn -d 'Application protocol to ask for, such as x-amzn-mqtt-ca' -r
complete -c instance-agent -n "__fish_instance_agent_using_subcommand publish" -l protocol -d 'Version of MQTT' -r -f -a "5\t''
3.1.1\t''"
complete -c instance-agent -n "__fish_instance_agent_using_subcommand publish" -l topic -d 'Topic, or the agents\' mqtt.topic as a pattern for each repository [default: github/+/+]' -r
complete -c instance-agent -n "__fish_instance_agent_using_subcommand publish" -l payload -d 'The body of GitHub\'s webhook, published byte for byte; - reads standard input' -r -F
complete -c instance-agent -n "__fish_instance_agent_using_subcommand publish" -l header -d 'A header of the webhook, such as X-Hub-Signature-256; repeatable; goes with --payload' -r
complete -c instance-agent -n "__fish_instance_agent_using_subcommand publish" -l repo -d 'Push made by hand: the repository, spelled as on GitHub [default: $GITHUB_REPOSITORY]' -r
complete -c instance-agent -n "__fish_instance_agent_using_subcommand publish" -l ref -d 'Push made by hand: a branch, or a full ref such as refs/tags/v1 [default: $GITHUB_REF]' -r
complete -c instance-agent -n "__fish_instance_agent_using_subcommand publish" -l sha -d 'Push made by hand: the commit, all its digits; it may be an old one [default: $GITHUB_SHA]' -r
complete -c instance-agent -n "__fish_instance_agent_using_subcommand publish" -l default-branch -d 'Push made by hand: the repository\'s default branch, for apps that name no branch' -r
complete -c instance-agent -n "__fish_instance_agent_using_subcommand publish" -l sign-with -d 'Sign with the first secret of this file, in the place of any signature that came along' -r -F
complete -c instance-agent -n "__fish_instance_agent_using_subcommand publish" -l timeout -d 'How long the broker may take, from the first attempt to its confirmation, such as 30s or 2m' -r
complete -c instance-agent -n "__fish_instance_agent_using_subcommand publish" -l retain -d 'Have the broker keep the message for agents that subscribe later'
complete -c instance-agent -n "__fish_instance_agent_using_subcommand publish" -l again -d 'Push made by hand: deploy it even where it runs already'
complete -c instance-agent -n "__fish_instance_agent_using_subcommand publish" -l slim -d 'Leave out what agents do not read, such as the commits'
complete -c instance-agent -n "__fish_instance_agent_using_subcommand publish" -l envelope -d 'Carry the headers inside the payload; implied by --protocol 3.1.1 when there are any'
complete -c instance-agent -n "__fish_instance_agent_using_subcommand publish" -s h -l help -d 'Print help'
complete -c instance-agent -n "__fish_instance_agent_using_subcommand help; and not __fish_seen_subcommand_from run check status history publish help" -f -a "run" -d 'Listen for pushes and deploy them, until SIGTERM or SIGINT; SIGHUP reloads the configuration'
complete -c instance-agent -n "__fish_instance_agent_using_subcommand help; and not __fish_seen_subcommand_from run check status history publish help" -f -a "check" -d 'Validate the configuration as `run` would, and show every setting and where it came from'
complete -c instance-agent -n "__fish_instance_agent_using_subcommand help; and not __fish_seen_subcommand_from run check status history publish help" -f -a "status" -d 'Show what is deployed, pending and failed, whether or not the agent runs'
complete -c instance-agent -n "__fish_instance_agent_using_subcommand help; and not __fish_seen_subcommand_from run check status history publish help" -f -a "history" -d 'Show the last outcomes of one app, or of all'
complete -c instance-agent -n "__fish_instance_agent_using_subcommand help; and not __fish_seen_subcommand_from run check status history publish help" -f -a "publish" -d 'Tell agents of a push, for relays, CI, scripts and people: sends one message and awaits the broker\'s answer'
complete -c instance-agent -n "__fish_instance_agent_using_subcommand help; and not __fish_seen_subcommand_from run check status history publish help" -f -a "help" -d 'Print this message or the help of the given subcommand(s)'
