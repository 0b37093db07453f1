// Go's own reverse proxy with a client-credentials token: httputil.ReverseProxy and x/oauth2.
package main

import (
	"context"
	"log"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"os"
	"sync"
	"time"

	"golang.org/x/oauth2"
	"golang.org/x/oauth2/clientcredentials"
)

type buffers struct{ pool sync.Pool }

func (b *buffers) Get() []byte     { return b.pool.Get().([]byte) }
func (b *buffers) Put(data []byte) { b.pool.Put(data) }

func main() {
	upstream, err := url.Parse(os.Getenv("UPSTREAM_URL"))
	if err != nil {
		log.Fatal(err)
	}
	credentials := clientcredentials.Config{
		ClientID:     os.Getenv("CLIENT_ID"),
		ClientSecret: os.Getenv("CLIENT_SECRET"),
		TokenURL:     os.Getenv("TOKEN_URL"),
	}
	transport := &http.Transport{
		DialContext:         (&net.Dialer{Timeout: 2 * time.Second}).DialContext,
		MaxIdleConnsPerHost: 2000,
		IdleConnTimeout:     time.Hour,
		DisableCompression:  true,
	}
	proxy := &httputil.ReverseProxy{
		Rewrite: func(request *httputil.ProxyRequest) {
			request.SetURL(upstream)
			request.Out.Host = request.In.Host
			request.SetXForwarded()
		},
		Transport:  &oauth2.Transport{Source: credentials.TokenSource(context.Background()), Base: transport},
		BufferPool: &buffers{sync.Pool{New: func() any { return make([]byte, 32<<10) }}},
	}
	log.Fatal((&http.Server{Addr: os.Getenv("LISTEN"), Handler: proxy}).ListenAndServe())
}
