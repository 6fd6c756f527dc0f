package main

import (
	"fmt"
	"net"
	"os"
	"runtime"
	"sync"
	"sync/atomic"
	"time"
)

func spin(n int) (s int) {
	for i := 0; i < n; i++ {
		s += i * i
	}
	return
}

func main() {
	runtime.GOMAXPROCS(4)
	var wg sync.WaitGroup
	var sum int64
	ch := make(chan int, 10)
	for i := 0; i < 1000; i++ {
		wg.Add(1)
		go func(i int) {
			defer wg.Done()
			atomic.AddInt64(&sum, int64(spin(20000)&0xff+i))
			ch <- i
		}(i)
	}
	got := 0
	for i := 0; i < 1000; i++ {
		got += <-ch
	}
	wg.Wait()
	fmt.Println("sum", sum, got)
	// asynchronous preemption: an endless loop must not stop the others
	go func() {
		for {
		}
	}()
	done := make(chan bool)
	go func() { runtime.GC(); done <- true }()
	select {
	case <-done:
		fmt.Println("collected")
	case <-time.After(20 * time.Second):
		fmt.Println("stuck")
		os.Exit(1)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				b := make([]byte, 100)
				for {
					n, err := c.Read(b)
					if err != nil {
						c.Close()
						return
					}
					c.Write(b[:n])
				}
			}()
		}
	}()
	total := 0
	for k := 0; k < 20; k++ {
		c, err := net.Dial("tcp", l.Addr().String())
		if err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
		for j := 0; j < 50; j++ {
			fmt.Fprintf(c, "hello %d", j)
			b := make([]byte, 100)
			n, _ := c.Read(b)
			total += n
		}
		c.Close()
	}
	fmt.Println("echoed", total)
	func() {
		defer func() { fmt.Println("recovered:", recover()) }()
		var p *int
		*p = 1
	}()
	m := map[int]string{}
	for i := 0; i < 100000; i++ {
		m[i] = fmt.Sprint(i)
	}
	fmt.Println(len(m), m[777])
}
