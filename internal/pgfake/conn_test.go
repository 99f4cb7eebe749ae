package pgfake

import (
	"context"
	"errors"
	"io"
	"net"
	"os"
	"testing"
	"testing/synctest"
	"time"
)

// raw opens a connection that has sent nothing yet.
func raw(t *testing.T, c *Cluster) net.Conn {
	t.Helper()
	nc, err := c.Dial(t.Context(), "tcp", "pg1:5432")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = nc.Close() })
	return nc
}

func TestReadDeadline(t *testing.T) {
	bubble(t, func(t *testing.T, c *Cluster) {
		nc := raw(t, c)
		start := time.Now()
		_ = nc.SetReadDeadline(start.Add(3 * time.Second))
		_, err := nc.Read(make([]byte, 1))
		if e, ok := errors.AsType[net.Error](err); !ok || !e.Timeout() || !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("Read: %v, want a timeout", err)
		}
		equal(t, "took", time.Since(start), 3*time.Second)
	})
}

func TestDeadlineSetDuringRead(t *testing.T) {
	bubble(t, func(t *testing.T, c *Cluster) {
		nc := raw(t, c)
		result := make(chan error, 1)
		go func() {
			_, err := nc.Read(make([]byte, 1))
			result <- err
		}()
		synctest.Wait()
		_ = nc.SetDeadline(time.Unix(1, 0))
		if err := <-result; !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("Read: %v, want a timeout", err)
		}
		if _, err := nc.Write([]byte("x")); !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("Write: %v, want a timeout", err)
		}
		_ = nc.SetDeadline(time.Time{})
		if _, err := nc.Write([]byte("x")); err != nil {
			t.Errorf("Write without deadline: %v", err)
		}
	})
}

func TestCloseEndsBothEnds(t *testing.T) {
	bubble(t, func(t *testing.T, c *Cluster) {
		nc := raw(t, c)
		result := make(chan error, 1)
		go func() {
			_, err := nc.Read(make([]byte, 1))
			result <- err
		}()
		synctest.Wait()
		if err := nc.Close(); err != nil {
			t.Error(err)
		}
		if err := <-result; !errors.Is(err, net.ErrClosed) {
			t.Errorf("Read: %v, want ErrClosed", err)
		}
		if _, err := nc.Write([]byte("x")); !errors.Is(err, net.ErrClosed) {
			t.Errorf("Write: %v, want ErrClosed", err)
		}
		if err := nc.Close(); !errors.Is(err, net.ErrClosed) {
			t.Errorf("second Close: %v, want ErrClosed", err)
		}
		synctest.Wait()
		equal(t, "conns", c.Node("pg1").Conns(), 0)
	})
}

func TestServerEndIsEOF(t *testing.T) {
	bubble(t, func(t *testing.T, c *Cluster) {
		nc := raw(t, c)
		if _, err := nc.Write([]byte{0, 0, 0, 8, 0xff, 0xff, 0xff, 0xff}); err != nil {
			t.Fatal(err)
		}
		if _, err := nc.Read(make([]byte, 1)); err != io.EOF {
			t.Errorf("Read: %v, want EOF", err)
		}
	})
}

func TestWaitForNotificationSurvivesItsDeadline(t *testing.T) {
	bubble(t, func(t *testing.T, c *Cluster) {
		conn := connect(t, c.Node("pg1"))
		for range 10 {
			ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
			_, err := conn.WaitForNotification(ctx)
			cancel()
			if !errors.Is(err, context.DeadlineExceeded) {
				t.Fatalf("WaitForNotification: %v, want its deadline", err)
			}
			do(t, conn, "select 1")
		}
	})
}

func TestOutsideABubble(t *testing.T) {
	c := New("pg1:6000")
	defer c.Close()
	conn := connect(t, c.Node("pg1:6000"))
	equal(t, "node", ask[string](t, conn, "read"), "pg1")
	_ = conn.Close(t.Context())
}
