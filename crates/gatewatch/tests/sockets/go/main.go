// A server and a client that speak HTTP within Go's own TLS.
package main

import (
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
)

func main() {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		panic(err)
	}
	handler := func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		fmt.Fprintf(w, "%s of %d: %s", r.Proto, len(body), strings.Repeat("answer", 1000))
	}
	server := &http.Server{Handler: http.HandlerFunc(handler)}
	go server.ServeTLS(listener, os.Args[1], os.Args[2])
	fmt.Println("ready")
	fmt.Scanln()
	for _, http2 := range []bool{false, true} {
		transport := &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}, ForceAttemptHTTP2: http2}
		client := &http.Client{Transport: transport}
		for range 3 {
			response, err := client.Post("https://"+listener.Addr().String()+"/from-go", "text/plain",
				strings.NewReader(strings.Repeat("question", 500)))
			if err != nil {
				panic(err)
			}
			io.Copy(io.Discard, response.Body)
			response.Body.Close()
		}
		transport.CloseIdleConnections()
	}
}
