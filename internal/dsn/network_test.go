package dsn

import (
	"slices"
	"testing"
	"time"
)

func TestNetworkIsReadAsLibpqReadsIt(t *testing.T) {
	network, problems := Settings{"keepalives_idle": "7", "keepalives_count": "0", "tcp_user_timeout": "1234"}.Network(time.Second)
	if k := network.keepAlive; problems != nil || k.Idle != 7*time.Second || k.Interval != time.Second || k.Count != -1 || network.userTimeout != 1234*time.Millisecond {
		t.Errorf("network: %+v, %v", network, problems)
	}
	if network, _ := (Settings{}).Network(time.Second); !network.keepAlive.Enable || network.keepAlive.Count != 3 || network.userTimeout != time.Second {
		t.Errorf("without settings: %+v", network)
	}
	if network, _ := (Settings{"keepalives": "0"}).Network(time.Second); network.dialer(0).KeepAlive >= 0 {
		t.Error("keepalives=0 does not switch them off")
	}
	if _, problems := (Settings{"keepalives_idle": "soon", "tcp_user_timeout": "a'b"}).Network(0); !slices.Equal(problems, []string{
		"keepalives_idle=soon: not a whole number", "tcp_user_timeout: not a whole number",
	}) {
		t.Errorf("problems: %q", problems)
	}
}
