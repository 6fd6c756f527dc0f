# Ends programs in kernel mode at random moments: killed.sh TIMES COMMAND... They end by the signal, or had
# ended by themselves with 0, and leave nothing behind.
times=$1
shift
wrong=0
run="/root/aero run --share --built /root/aero-multiverse /root/aerokernel-hrt.boot"
below() { echo $(($(od -An -N4 -tu4 /dev/urandom) % $1)); }

# Sends the process of the file `process` a signal at a random moment, and says if it does not end by that.
end() {
    usleep "$(below 1200000)"
    process=$(cat process)
    kill -$1 $process 2>/dev/null
    if [ $1 = STOP ]; then
        usleep "$(below 50000)"
        kill -CONT $process 2>/dev/null
        usleep "$(below 50000)"
        kill -KILL $process 2>/dev/null
    fi
    for look in $(seq 400); do
        kill -0 $process 2>/dev/null || return
        usleep 50000
    done
    echo "does not end"
    kill -KILL $process
}

for command; do
    for signal in KILL TERM INT STOP; do
        for time in $(seq "$times"); do
            : >process
            end $signal >hangs &
            # In the foreground, because a shell has its other processes ignore SIGINT.
            sh -c "echo \$\$ >process; exec $run $command" >said 2>&1
            status=$?
            wait
            case $signal$status$(cat hangs) in
            KILL137 | STOP137 | TERM143 | INT130 | KILL0 | STOP0 | TERM0 | INT0) ;;
            *)
                echo "$command, $signal, $time: status $status $(cat hangs)"
                cat said
                wrong=1
                ;;
            esac
        done
    done
done
/root/aero hvm ps >/dev/null
echo "sockets $(ls /tmp/aerokernel-0 | wc -l), processes $(ps | grep -v grep | grep -c aero-multiverse), wrong $wrong"
