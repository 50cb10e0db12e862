// Go's net/http, as a server or as a client.
//
//	serve PORT TLS_PORT CERT KEY   HTTP/1 and HTTP/2 on both, until it is ended
//	load PROTOCOL URL PLAN         http1 or http2; JSON: [method, path, bytes of the body, times], …; mixed, eight at once
package main

import (
	"crypto/tls"
	"encoding/json"
	"io"
	"math/rand"
	"net/http"
	"os"
	"path"
	"strings"
	"sync"
)

var statuses = map[string]int{"missing": 404, "broken": 503, "moved": 302, "made": 201}

func answer(w http.ResponseWriter, r *http.Request) {
	io.Copy(io.Discard, r.Body)
	last := path.Base(r.URL.Path)
	if last == "streamed" {
		for _, size := range []int{1, 500, 4000, 9000} {
			io.WriteString(w, strings.Repeat("s", size))
			w.(http.Flusher).Flush()
		}
		return
	}
	if last == "moved" {
		w.Header().Set("Location", "/items")
	}
	if status, ok := statuses[last]; ok {
		w.WriteHeader(status)
	}
	if last == "large" {
		io.WriteString(w, strings.Repeat("l", 100_000))
	} else {
		io.WriteString(w, "ok")
	}
}

func serve(port, tlsPort, cert, key string) error {
	var protocols http.Protocols
	protocols.SetHTTP1(true)
	protocols.SetHTTP2(true)
	protocols.SetUnencryptedHTTP2(true)
	ended := make(chan error)
	for _, at := range []string{port, tlsPort} {
		server := &http.Server{Addr: "127.0.0.1:" + at, Handler: http.HandlerFunc(answer), Protocols: &protocols}
		go func() {
			if at == tlsPort {
				ended <- server.ListenAndServeTLS(cert, key)
			} else {
				ended <- server.ListenAndServe()
			}
		}()
	}
	return <-ended
}

func load(protocol, url, plan string) error {
	var protocols http.Protocols
	if protocol == "http2" {
		protocols.SetHTTP2(true)
		protocols.SetUnencryptedHTTP2(strings.HasPrefix(url, "http:"))
	} else {
		protocols.SetHTTP1(true)
	}
	client := &http.Client{
		Transport: &http.Transport{
			TLSClientConfig:     &tls.Config{InsecureSkipVerify: true},
			Protocols:           &protocols,
			MaxIdleConnsPerHost: 8,
		},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	var entries [][4]any
	if err := json.Unmarshal([]byte(plan), &entries); err != nil {
		return err
	}
	var calls []func() error
	for _, entry := range entries {
		method, path := entry[0].(string), entry[1].(string)
		call := func() error {
			var body io.Reader
			if size := int(entry[2].(float64)); size > 0 {
				body = strings.NewReader(strings.Repeat("b", size))
				if strings.HasSuffix(path, "chunked") {
					// Of no length that it knows.
					body = io.LimitReader(body, int64(size))
				}
			}
			request, err := http.NewRequest(method, url+path, body)
			if err != nil {
				return err
			}
			response, err := client.Do(request)
			if err != nil {
				return err
			}
			defer response.Body.Close()
			_, err = io.Copy(io.Discard, response.Body)
			return err
		}
		for range int(entry[3].(float64)) {
			calls = append(calls, call)
		}
	}
	rand.Shuffle(len(calls), func(a, b int) { calls[a], calls[b] = calls[b], calls[a] })
	var workers sync.WaitGroup
	failures := make(chan error, len(calls))
	for worker := range 8 {
		workers.Go(func() {
			for at := worker; at < len(calls); at += 8 {
				if err := calls[at](); err != nil {
					failures <- err
				}
			}
		})
	}
	workers.Wait()
	close(failures)
	return <-failures
}

func main() {
	var err error
	if args := os.Args[2:]; os.Args[1] == "serve" {
		err = serve(args[0], args[1], args[2], args[3])
	} else {
		err = load(args[0], args[1], args[2])
	}
	if err != nil {
		panic(err)
	}
}
