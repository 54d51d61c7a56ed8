// Caller asks DRA plugins as kubelet does: with kubelet's own gRPC library, over a connection that stays open.
//
// Each line of standard input is one question, {"socket": ..., "unprepare": bool, "calls": [[claim, ...], ...]}; its
// calls are made at once. Each line of standard output answers one: {"seconds": until the last answer, "error": ...}.
package main

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	dra "k8s.io/kubelet/pkg/apis/dra/v1"
)

const deadline = 45 * time.Second // as kubelet's

type claim struct{ Namespace, Name, UID string }

type question struct {
	Socket    string
	Unprepare bool
	Calls     [][]claim
}

type answer struct {
	Seconds float64 `json:"seconds"`
	Error   string  `json:"error"`
}

func main() {
	clients := map[string]dra.DRAPluginClient{}
	lines, out := json.NewDecoder(bufio.NewReader(os.Stdin)), json.NewEncoder(os.Stdout)
	for {
		var q question
		if lines.Decode(&q) != nil {
			return
		}
		if clients[q.Socket] == nil {
			connection, err := grpc.NewClient("unix:"+q.Socket, grpc.WithTransportCredentials(insecure.NewCredentials()))
			if err != nil {
				fmt.Fprintln(os.Stderr, err)
				os.Exit(1)
			}
			clients[q.Socket] = dra.NewDRAPluginClient(connection)
		}
		out.Encode(ask(clients[q.Socket], q))
	}
}

func ask(client dra.DRAPluginClient, q question) answer {
	requests := make([][]*dra.Claim, len(q.Calls))
	for i, claims := range q.Calls {
		for _, c := range claims {
			requests[i] = append(requests[i], &dra.Claim{Namespace: c.Namespace, Name: c.Name, Uid: c.UID})
		}
	}
	errors := make([]error, len(requests))
	began := time.Now()
	if len(requests) == 1 {
		errors[0] = call(client, q.Unprepare, requests[0])
	} else {
		var all sync.WaitGroup
		for i := range requests {
			all.Add(1)
			go func() {
				defer all.Done()
				errors[i] = call(client, q.Unprepare, requests[i])
			}()
		}
		all.Wait()
	}
	took := time.Since(began).Seconds()
	for _, err := range errors {
		if err != nil {
			return answer{took, err.Error()}
		}
	}
	return answer{took, ""}
}

// call is an error, too, where a claim was refused or got no devices: that is no figure.
func call(client dra.DRAPluginClient, unprepare bool, claims []*dra.Claim) error {
	ctx, cancel := context.WithTimeout(context.Background(), deadline)
	defer cancel()
	if unprepare {
		response, err := client.NodeUnprepareResources(ctx, &dra.NodeUnprepareResourcesRequest{Claims: claims})
		if err != nil {
			return err
		}
		for _, c := range claims {
			if told := response.Claims[c.Uid]; told == nil || told.Error != "" {
				return fmt.Errorf("claim %s/%s: %v", c.Namespace, c.Name, told)
			}
		}
		return nil
	}
	response, err := client.NodePrepareResources(ctx, &dra.NodePrepareResourcesRequest{Claims: claims})
	if err != nil {
		return err
	}
	for _, c := range claims {
		if told := response.Claims[c.Uid]; told == nil || told.Error != "" || len(told.Devices) == 0 {
			return fmt.Errorf("claim %s/%s: %v", c.Namespace, c.Name, told)
		}
	}
	return nil
}
