// A thousand goroutines, one that never lets go, garbage collections, loopback connections and faults.
package main

import (
	"fmt"
	"io"
	"net"
	"os"
	"runtime"
	"sync"
	"time"
)

func spin(n int) (sum int) {
	for i := 0; i < n; i++ {
		sum += i * i
	}
	return
}

func fault() (said error) {
	defer func() { said, _ = recover().(error) }()
	var nothing *int
	*nothing = 1
	return
}

func fail(what error) {
	fmt.Println(what)
	os.Exit(1)
}

func main() {
	runtime.GOMAXPROCS(4)
	numbers := make(chan int, 10)
	for i := 0; i < 1000; i++ {
		go func(i int) { numbers <- spin(20000)&0xff + i }(i)
	}
	sum := 0
	for i := 0; i < 1000; i++ {
		sum += <-numbers
	}
	fmt.Println("sum", sum)

	// Only a signal stops this one.
	go func() {
		for {
		}
	}()
	done := make(chan bool)
	go func() { runtime.GC(); done <- true }()
	select {
	case <-done:
		fmt.Println("collected")
	case <-time.After(60 * time.Second):
		fail(fmt.Errorf("not collected"))
	}

	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		fail(err)
	}
	go func() {
		for {
			if connection, err := listener.Accept(); err == nil {
				go io.Copy(connection, connection)
			}
		}
	}()
	var clients sync.WaitGroup
	echoed := make([]int, 20)
	for i := range echoed {
		clients.Add(1)
		go func(i int) {
			defer clients.Done()
			connection, err := net.Dial("tcp", listener.Addr().String())
			if err != nil {
				fail(err)
			}
			defer connection.Close()
			text := make([]byte, 10*(i+1))
			connection.Write(text)
			echoed[i], _ = io.ReadFull(connection, text)
		}(i)
	}
	clients.Wait()
	all := 0
	for _, one := range echoed {
		all += one
	}
	fmt.Println("echoed", all)
	fmt.Println("recovered:", fault())
}
